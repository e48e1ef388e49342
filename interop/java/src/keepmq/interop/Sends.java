package keepmq.interop;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageClientIDSetter;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.common.message.MessageId;
import org.apache.rocketmq.common.message.MessageQueue;

/** Every kind of send, and every field of its result. */
final class Sends {
    static void all() throws Exception {
        DefaultMQProducer producer = Clients.producer();
        try {
            synchronous(producer);
            asynchronous(producer);
            batch(producer);
            oneway(producer);
            refused(producer);
        } finally {
            producer.shutdown();
        }
    }

    static Message message(String topic, int number) {
        return new Message(topic, "tag", "key-" + number, ("body " + number).getBytes(StandardCharsets.UTF_8));
    }

    /** The result of a send that must have gone well. */
    static SendResult kept(SendResult result) {
        if (result.getSendStatus() != SendStatus.SEND_OK) {
            throw new IllegalStateException("a send was answered with " + result);
        }
        return result;
    }

    /** Messages with the keys of these numbers; the answer is how far the queues go then. */
    static Map<Integer, Long> some(DefaultMQProducer producer, String topic, int from, int to) throws Exception {
        Map<Integer, Long> ends = new HashMap<>();
        for (int number = from; number < to; number++) {
            SendResult result = kept(producer.send(message(topic, number)));
            ends.merge(result.getMessageQueue().getQueueId(), result.getQueueOffset() + 1, Math::max);
        }
        // The first of them may have made the topic. A consumer that starts before the route is there asks again after 30 s only.
        Clients.queues(producer, topic);
        return ends;
    }

    static Set<String> keys(int from, int to) {
        Set<String> keys = new TreeSet<>();
        for (int number = from; number < to; number++) {
            keys.add("key-" + number);
        }
        return keys;
    }

    private static void synchronous(DefaultMQProducer producer) throws Exception {
        String topic = "sync-" + Interop.run;
        try (Check check = new Check("synchronous sends, every field of the result")) {
            Fields fields = new Fields(check);
            for (int number = 0; number < 40; number++) {
                Message message = message(topic, number);
                fields.of(message, producer.send(message));
            }
            check.same("queues used", 4, fields.nextOffset.size());
        }
        try (Check check = new Check("synchronous sends to a chosen queue")) {
            Fields fields = new Fields(check);
            List<MessageQueue> queues = Clients.queues(producer, topic);
            check.same("queues of the route", 4, queues.size());
            for (int number = 0; number < 20; number++) {
                MessageQueue queue = queues.get(number % queues.size());
                Message message = message(topic, number);
                SendResult result = number % 2 == 0
                    ? producer.send(message, queue)
                    : producer.send(message, (all, m, arg) -> (MessageQueue) arg, queue);
                check.same("queue", queue, result.getMessageQueue());
                fields.of(message, result);
            }
        }
    }

    private static void asynchronous(DefaultMQProducer producer) throws Exception {
        String topic = "async-" + Interop.run;
        int count = 200;
        try (Check check = new Check("asynchronous sends, every field of the result")) {
            CountDownLatch open = new CountDownLatch(count);
            Map<Message, SendResult> results = Collections.synchronizedMap(new HashMap<>());
            producer.send(message(topic, -1));
            for (int number = 0; number < count; number++) {
                Message message = message(topic, number);
                producer.send(message, new SendCallback() {
                    @Override
                    public void onSuccess(SendResult result) {
                        results.put(message, result);
                        open.countDown();
                    }

                    @Override
                    public void onException(Throwable error) {
                        check.that(false, "a send failed: " + error);
                        open.countDown();
                    }
                });
            }
            check.that(open.await(30, TimeUnit.SECONDS), "answers are missing: " + open.getCount());
            Set<String> places = new HashSet<>();
            results.forEach((message, result) -> {
                Fields.each(check, message, result);
                places.add(result.getMessageQueue() + " " + result.getQueueOffset());
            });
            check.same("different places", count, places.size());
        }
    }

    private static void batch(DefaultMQProducer producer) throws Exception {
        String topic = "batch-" + Interop.run;
        try (Check check = new Check("batches, every field of the result")) {
            producer.send(message(topic, -1));
            MessageQueue queue = Clients.queues(producer, topic).get(0);
            long expected = -1;
            for (int round = 0; round < 5; round++) {
                List<Message> messages = new ArrayList<>();
                for (int number = 0; number < 10; number++) {
                    messages.add(message(topic, round * 10 + number));
                }
                SendResult result = producer.send(messages, queue);
                check.same("status", SendStatus.SEND_OK, result.getSendStatus());
                check.same("queue", queue, result.getMessageQueue());
                String[] places = result.getOffsetMsgId().split(",");
                String[] ids = result.getMsgId().split(",");
                check.same("ids of places", messages.size(), places.length);
                for (int number = 0; number < messages.size(); number++) {
                    check.same("msgId", MessageClientIDSetter.getUniqID(messages.get(number)), ids[number]);
                }
                long before = -1;
                for (String place : places) {
                    long position = MessageDecoder.decodeMessageId(place).getOffset();
                    check.that(position > before, "positions do not rise in " + result.getOffsetMsgId());
                    before = position;
                }
                check.that(expected < 0 || expected == result.getQueueOffset(),
                    "queueOffset is " + result.getQueueOffset() + ", not " + expected);
                expected = result.getQueueOffset() + messages.size();
            }
        }
    }

    private static void oneway(DefaultMQProducer producer) throws Exception {
        String topic = "oneway-" + Interop.run;
        try (Check check = new Check("oneway sends arrive")) {
            producer.send(message(topic, -1));
            MessageQueue queue = Clients.queues(producer, topic).get(0);
            DefaultMQPullConsumer puller = Clients.puller("oneway-" + Interop.run);
            try {
                long before = puller.maxOffset(queue);
                for (int number = 0; number < 20; number++) {
                    producer.sendOneway(message(topic, number), queue);
                }
                check.that(Check.within(10, () -> puller.maxOffset(queue) == before + 20),
                    "maxOffset is " + puller.maxOffset(queue) + ", not " + (before + 20));
            } finally {
                puller.shutdown();
            }
        }
    }

    /** What this broker cannot do it refuses with RocketMQ's codes. */
    private static void refused(DefaultMQProducer producer) throws Exception {
        String topic = "sync-" + Interop.run;
        try (Check check = new Check("what is not there yet is refused by its code")) {
            Message delayed = message(topic, 0);
            delayed.setDelayTimeLevel(3);
            try {
                check.that(false, "a delayed message was answered with " + producer.send(delayed));
            } catch (MQBrokerException refusal) {
                check.same("code for a delayed message", 13, refusal.getResponseCode());
            }
            try {
                Message odd = message(topic, 0);
                MessageQueue queue = Clients.queues(producer, topic).get(0);
                MessageQueue beyond = new MessageQueue(topic, queue.getBrokerName(), 99);
                check.that(false, "queue 99 was answered with " + producer.send(odd, beyond));
            } catch (MQBrokerException refusal) {
                check.same("code for a queue out of range", 29, refusal.getResponseCode());
            }
        }
    }

    /** The fields of one result after the other. */
    static final class Fields {
        private final Check check;
        private long position = -1;
        final Map<MessageQueue, Long> nextOffset = new HashMap<>();

        Fields(Check check) {
            this.check = check;
        }

        void of(Message message, SendResult result) throws Exception {
            each(check, message, result);
            long at = MessageDecoder.decodeMessageId(result.getOffsetMsgId()).getOffset();
            check.that(at > position, "position " + at + " behind " + position);
            position = at;
            Long expected = nextOffset.get(result.getMessageQueue());
            check.that(expected == null || expected == result.getQueueOffset(),
                "queueOffset is " + result.getQueueOffset() + ", not " + expected);
            nextOffset.put(result.getMessageQueue(), result.getQueueOffset() + 1);
        }

        static void each(Check check, Message message, SendResult result) {
            check.same("status", SendStatus.SEND_OK, result.getSendStatus());
            check.same("msgId", MessageClientIDSetter.getUniqID(message), result.getMsgId());
            check.same("transactionId", result.getMsgId(), result.getTransactionId());
            check.same("regionId", "DefaultRegion", result.getRegionId());
            check.same("traceOn", true, result.isTraceOn());
            check.same("topic", message.getTopic(), result.getMessageQueue().getTopic());
            int queue = result.getMessageQueue().getQueueId();
            check.that(queue >= 0 && queue < 4, "queue " + queue);
            check.that(result.getQueueOffset() >= 0, "queueOffset " + result.getQueueOffset());
            try {
                MessageId id = MessageDecoder.decodeMessageId(result.getOffsetMsgId());
                check.that(id.getOffset() >= 0, "position " + id.getOffset());
                check.that(id.getAddress().toString().contains("127.0.0.1"), "address " + id.getAddress());
            } catch (Exception error) {
                check.that(false, "offsetMsgId " + result.getOffsetMsgId() + ": " + error);
            }
        }
    }
}
