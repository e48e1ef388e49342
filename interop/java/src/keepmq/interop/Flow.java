package keepmq.interop;

import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;

/** Messages with keys that keep coming until it is stopped, and where each one lies that was acknowledged. */
final class Flow implements AutoCloseable {
    static final int QUEUES = 8;
    private final DefaultMQProducer producer;
    private final Thread thread;
    private final Map<String, String> places = new ConcurrentHashMap<>();
    private final Map<Integer, Long> ends = new ConcurrentHashMap<>();
    private final Set<String> keys = ConcurrentHashMap.newKeySet();
    private volatile boolean stopped;
    private volatile Exception error;

    /** The first message has been acknowledged: the topic exists. */
    Flow(String topic) throws Exception {
        producer = Clients.producer();
        producer.setDefaultTopicQueueNums(QUEUES);
        send(topic, 0);
        thread = new Thread(() -> {
            try {
                for (int number = 1; !stopped; number++) {
                    send(topic, number);
                    // Slow enough for two cores, fast enough to show within moments who owns a queue.
                    Thread.sleep(1);
                }
            } catch (Exception failure) {
                error = failure;
            }
        });
        thread.start();
    }

    private void send(String topic, int number) throws Exception {
        SendResult result = Sends.kept(producer.send(Sends.message(topic, number)));
        int queue = result.getMessageQueue().getQueueId();
        places.put(queue + " " + result.getQueueOffset(), "key-" + number);
        ends.merge(queue, result.getQueueOffset() + 1, Math::max);
        keys.add("key-" + number);
    }

    /** Ends; a send that failed is thrown. */
    void stop() throws Exception {
        stopped = true;
        thread.join();
        if (error != null) {
            throw error;
        }
    }

    Set<String> acknowledged() {
        return new HashSet<>(keys);
    }

    String at(int queue, long offset) {
        return places.get(queue + " " + offset);
    }

    Map<Integer, Long> ends() {
        return new HashMap<>(ends);
    }

    @Override
    public void close() throws Exception {
        stopped = true;
        thread.join();
        producer.shutdown();
    }
}
