package keepmq.interop;

import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.UtilAll;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageExt;

/** One half of a pair: what one client sends, another one receives. Both print the same line for the same message. */
final class Peer {
    /** Messages that go one by one, and in the batch behind them; as many as in the other languages. */
    private static final int SINGLE = 48;
    private static final int BATCH = 10;
    /** "Aa" and "BB" have the same hash: a broker lets both pass, a client must tell them apart. */
    private static final String[] TAGS = {"A", "B", "C", "Aa", "BB"};
    /** As 5.x calls it; the Go client has another name, and 4.9 none. */
    private static final String SHARDING_KEY = "__SHARDINGKEY";
    private final Map<String, DefaultMQPushConsumer> members = new ConcurrentHashMap<>();

    private static Message sample(String topic, int number) {
        byte[] body;
        if (number % 8 == 7) {
            // Long enough to be compressed, unless it goes in a batch.
            body = ("a long body " + number + " ").repeat(1000).getBytes(StandardCharsets.UTF_8);
        } else if (number % 8 == 3) {
            body = ("ünïcödé ✓ " + number).getBytes(StandardCharsets.UTF_8);
        } else if (number % 8 == 5) {
            body = new byte[256];
            for (int value = 0; value < body.length; value++) {
                body[value] = (byte) value;
            }
        } else {
            body = ("body " + number).getBytes(StandardCharsets.UTF_8);
        }
        Message message = new Message(topic, TAGS[number % TAGS.length], "", body);
        message.setKeys(List.of("key-" + number, "also-" + number));
        message.putUserProperty("user", "välue-" + number);
        message.setFlag(1000 + number);
        if (number % 4 == 1) {
            MessageAccessor.putProperty(message, SHARDING_KEY, "shard-" + number % 3);
        }
        return message;
    }

    private static String line(Message message) {
        String shard = message.getProperty(SHARDING_KEY) == null ? message.getProperty("SHARDING_KEY")
            : message.getProperty(SHARDING_KEY);
        return String.join(" ", message.getKeys().trim().replace(' ', '+'), message.getTags(),
            String.valueOf(message.getFlag()), String.valueOf(message.getUserProperty("user")), shard == null ? "-" : shard,
            String.valueOf(message.getBody().length), String.valueOf(UtilAll.crc32(message.getBody())));
    }

    private static void sent(String line, int queue, long offset, String id, String place) {
        System.out.println(String.join(" ", "sent", line, String.valueOf(queue), String.valueOf(offset), id, place));
    }

    static void send(String topic) throws Exception {
        DefaultMQProducer producer = Clients.producer();
        try {
            for (int number = 0; number < SINGLE; number++) {
                Message message = sample(topic, number);
                // The body of a message that was sent is the compressed one in some versions.
                String line = line(message);
                String shard = message.getProperty(SHARDING_KEY);
                SendResult result = Sends.kept(shard == null ? producer.send(message)
                    : producer.send(message, new SelectMessageQueueByHash(), shard));
                sent(line, result.getMessageQueue().getQueueId(), result.getQueueOffset(), result.getMsgId(),
                    result.getOffsetMsgId());
            }
            List<Message> batch = new ArrayList<>();
            for (int number = SINGLE; number < SINGLE + BATCH; number++) {
                Message message = sample(topic, number);
                MessageAccessor.clearProperty(message, SHARDING_KEY);
                batch.add(message);
            }
            SendResult result = Sends.kept(producer.send(batch));
            String[] ids = result.getMsgId().split(",");
            String[] places = result.getOffsetMsgId().split(",");
            for (int number = 0; number < batch.size(); number++) {
                sent(line(batch.get(number)), result.getMessageQueue().getQueueId(), result.getQueueOffset() + number,
                    ids[number], places[number]);
            }
        } finally {
            producer.shutdown();
        }
    }

    /** Receives so many messages, and what comes shortly behind them, and prints all. */
    static void take(String topic, String group, String tags, int count) throws Exception {
        try (Clients.Receiver receiver = new Clients.Receiver(group, topic, tags)) {
            Check.within(30, () -> receiver.all.size() >= count);
            Thread.sleep(500);
            for (MessageExt message : receiver.all) {
                System.out.println(String.join(" ", "got", line(message), String.valueOf(message.getQueueId()),
                    String.valueOf(message.getQueueOffset()), message.getMsgId(), place(message)));
            }
        }
    }

    /** The id of the place: a client's message hides it behind the one that the producer gave. */
    private static String place(MessageExt message) {
        return ((org.apache.rocketmq.common.message.MessageClientExt) message).getOffsetMsgId();
    }

    /** A member of a group that prints what it takes, before the broker can hear of it. */
    void join(String name, String topic, String group) throws Exception {
        DefaultMQPushConsumer consumer = Clients.pusher(group, Clients.instance());
        consumer.subscribe(topic, "*");
        // One thread, so that the order of a queue is the order in which it is consumed.
        consumer.setConsumeThreadMin(1);
        consumer.setConsumeThreadMax(1);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            Instant now = Instant.now();
            for (MessageExt message : messages) {
                synchronized (System.out) {
                    System.out.println(String.join(" ", "took", name, String.valueOf(message.getQueueId()),
                        String.valueOf(message.getQueueOffset()), new String(message.getBody(), StandardCharsets.UTF_8),
                        String.valueOf(now.getEpochSecond() * 1_000_000 + now.getNano() / 1000)));
                    System.out.flush();
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        members.put(name, consumer);
    }

    /** The queues that a member has by its own count. */
    void owns(String name, String topic) {
        String queues = members.get(name).getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet().stream()
            .filter(queue -> queue.getTopic().equals(topic))
            .map(queue -> String.valueOf(queue.getQueueId()))
            .collect(Collectors.joining(" "));
        System.out.println("owns " + queues);
    }

    void leave(String name) {
        members.remove(name).shutdown();
    }
}
