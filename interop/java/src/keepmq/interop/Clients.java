package keepmq.interop;

import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Clients as programs set them up. */
final class Clients {
    private static int instances;

    static synchronized String instance() {
        return "interop-" + Interop.run + "-" + instances++;
    }

    static DefaultMQProducer producer() throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("producers-" + Interop.run);
        producer.setNamesrvAddr(Interop.nameServer);
        producer.setInstanceName(instance());
        producer.setSendMsgTimeout(5000);
        producer.start();
        return producer;
    }

    /** A new topic is on the name servers within a second of the answer, not with it. */
    static List<MessageQueue> queues(DefaultMQProducer producer, String topic) throws Exception {
        return Check.eventually(10, () -> producer.fetchPublishMessageQueues(topic));
    }

    static DefaultMQPullConsumer puller(String group) throws Exception {
        DefaultMQPullConsumer puller = new DefaultMQPullConsumer(group);
        puller.setNamesrvAddr(Interop.nameServer);
        puller.setInstanceName(instance());
        puller.start();
        return puller;
    }

    static DefaultMQPushConsumer pusher(String group, String instance) {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(Interop.nameServer);
        consumer.setInstanceName(instance);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        // A second after its start the client has two reasons for a heartbeat. When they meet, the one that tells of a new
        // version of its subscription is dropped, and until the next one the client refuses itself every message: 30 s.
        consumer.setHeartbeatBrokerInterval(3000);
        return consumer;
    }

    /** A push consumer and everything it has received, by key; copies of the same message are counted. */
    static final class Receiver implements AutoCloseable {
        final DefaultMQPushConsumer consumer;
        final Map<String, MessageExt> byKey = new ConcurrentHashMap<>();
        final ConcurrentLinkedQueue<MessageExt> all = new ConcurrentLinkedQueue<>();

        Receiver(String group, String topic, String tags) throws Exception {
            this(topic, tags, pusher(group, instance()));
        }

        /** Every message to every consumer. Its offsets are found again by the name of the instance. */
        static Receiver broadcasting(String group, String topic, String instance) throws Exception {
            DefaultMQPushConsumer consumer = pusher(group, instance);
            // The class of the value has moved between versions, its name has not.
            consumer.setMessageModel(consumer.getMessageModel().valueOf("BROADCASTING"));
            return new Receiver(topic, "*", consumer);
        }

        private Receiver(String topic, String tags, DefaultMQPushConsumer consumer) throws Exception {
            this.consumer = consumer;
            consumer.subscribe(topic, tags);
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> take(messages));
            consumer.start();
        }

        private ConsumeConcurrentlyStatus take(List<MessageExt> messages) {
            for (MessageExt message : messages) {
                all.add(message);
                byKey.put(message.getKeys(), message);
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        }

        @Override
        public void close() {
            consumer.shutdown();
        }
    }
}
