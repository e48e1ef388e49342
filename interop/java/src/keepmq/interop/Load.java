package keepmq.interop;

import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;

/**
 * One producer that sends asynchronously, with a fixed number of sends under way: what a user of the Java client gets at most.
 * Arguments: name server, topic, sends under way, bytes of a body, seconds that are not measured, seconds that are.
 * Prints one line of JSON: the rate of sends that ended with SEND_OK, and how many did not.
 */
public final class Load {
    private Load() {}

    public static void main(String[] words) throws Exception {
        String topic = words[1];
        int underWay = Integer.parseInt(words[2]);
        byte[] body = new byte[Integer.parseInt(words[3])];
        long warm = Long.parseLong(words[4]) * 1_000_000_000L;
        long measured = Long.parseLong(words[5]) * 1_000_000_000L;
        DefaultMQProducer producer = new DefaultMQProducer("load-producer");
        producer.setNamesrvAddr(words[0]);
        // Bodies stay as they are: the others do not compress them, either.
        producer.setCompressMsgBodyOverHowmuch(Integer.MAX_VALUE);
        producer.start();
        Semaphore room = new Semaphore(underWay);
        AtomicLong kept = new AtomicLong();
        AtomicLong failed = new AtomicLong();
        SendCallback callback = new SendCallback() {
            @Override
            public void onSuccess(SendResult result) {
                (result.getSendStatus() == SendStatus.SEND_OK ? kept : failed).incrementAndGet();
                room.release();
            }

            @Override
            public void onException(Throwable error) {
                failed.incrementAndGet();
                room.release();
            }
        };
        long began = System.nanoTime();
        while (System.nanoTime() - began < warm) {
            room.acquire();
            producer.send(new Message(topic, body), callback);
        }
        long before = kept.get();
        long from = System.nanoTime();
        while (System.nanoTime() - from < measured) {
            room.acquire();
            producer.send(new Message(topic, body), callback);
        }
        double seconds = (System.nanoTime() - from) / 1e9;
        long after = kept.get();
        room.acquire(underWay);
        producer.shutdown();
        System.out.printf(java.util.Locale.ROOT, "{\"rate\":%.1f,\"n\":%d,\"err\":%d}%n", (after - before) / seconds, after - before, failed.get());
    }
}
