package keepmq.interop;

import java.util.HashMap;
import java.util.Map;
import java.util.TreeSet;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/** What must hold although servers end and come back between two commands. */
final class Across {
    private static final int FEW = 40;
    private final Map<String, DefaultMQProducer> producers = new HashMap<>();
    private final Map<String, Clients.Receiver> receivers = new HashMap<>();

    private static String topic(String what) {
        return "across-" + what + "-" + Interop.run;
    }

    private static void send(DefaultMQProducer producer, String topic, int from, int to, Check check) throws Exception {
        for (int number = from; number < to; number++) {
            Message message = Sends.message(topic, number);
            SendStatus status = Check.eventually(60, () -> producer.send(message).getSendStatus());
            check.same("status", SendStatus.SEND_OK, status);
        }
    }

    /** Sum of the offsets that the broker has for a group. */
    private static long committed(DefaultMQPullConsumer puller, String topic) throws Exception {
        long sum = 0;
        for (MessageQueue queue : Check.eventually(10, () -> puller.fetchSubscribeMessageQueues(topic))) {
            sum += Math.max(0, puller.fetchConsumeOffset(queue, true));
        }
        return sum;
    }

    /** A group consumes everything, commits and leaves. */
    void offsetsBegin(String what) throws Exception {
        String topic = topic(what);
        DefaultMQProducer producer = Clients.producer();
        try (Check check = new Check("before a " + what + ": a group commits what it has consumed")) {
            send(producer, topic, 0, FEW, check);
            Clients.Receiver receiver = new Clients.Receiver(topic, topic, "*");
            check.that(Check.within(30, () -> receiver.byKey.size() == FEW), "received " + receiver.byKey.size());
            receiver.close();
            DefaultMQPullConsumer puller = Clients.puller(topic);
            check.that(Check.within(10, () -> committed(puller, topic) == FEW), "committed " + committed(puller, topic));
            puller.shutdown();
            send(producer, topic, FEW, 2 * FEW, check);
        } finally {
            producer.shutdown();
        }
    }

    /** The group goes on exactly where it was. */
    void offsetsEnd(String what) throws Exception {
        String topic = topic(what);
        try (Check check = new Check("after a " + what + ": the group goes on where it was");
             Clients.Receiver receiver = new Clients.Receiver(topic, topic, "*")) {
            check.that(Check.within(60, () -> receiver.byKey.size() >= FEW), "received " + receiver.byKey.size());
            Thread.sleep(1000);
            check.same("keys", Sends.keys(FEW, 2 * FEW), new TreeSet<>(receiver.byKey.keySet()));
            check.same("messages", FEW, receiver.all.size());
        }
    }

    /** A producer and a consumer run. */
    void clientsBegin(String what) throws Exception {
        String topic = topic("running-" + what);
        DefaultMQProducer producer = Clients.producer();
        producers.put(what, producer);
        try (Check check = new Check("before a " + what + ": producer and consumer run")) {
            send(producer, topic, 0, FEW, check);
            Clients.Receiver receiver = new Clients.Receiver(topic, topic, "*");
            receivers.put(what, receiver);
            check.that(Check.within(30, () -> receiver.byKey.size() == FEW), "received " + receiver.byKey.size());
        }
    }

    /** The same two go on, and new ones begin. */
    void clientsEnd(String what) throws Exception {
        String topic = topic("running-" + what);
        DefaultMQProducer producer = producers.remove(what);
        try (Check check = new Check("after a " + what + ": running clients go on");
             Clients.Receiver receiver = receivers.remove(what)) {
            send(producer, topic, FEW, 2 * FEW, check);
            check.that(Check.within(90, () -> receiver.byKey.size() == 2 * FEW), "received " + receiver.byKey.size());
            check.same("keys", Sends.keys(0, 2 * FEW), new TreeSet<>(receiver.byKey.keySet()));
        } finally {
            producer.shutdown();
        }
        DefaultMQProducer late = Clients.producer();
        try (Check check = new Check("after a " + what + ": a new producer and a new topic")) {
            send(late, topic("new-" + what), 0, 4, check);
        } finally {
            late.shutdown();
        }
    }
}
