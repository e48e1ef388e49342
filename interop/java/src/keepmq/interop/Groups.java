package keepmq.interop;

import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.TreeSet;
import java.util.stream.Stream;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.MessageQueue;

/** Consumers that share a topic out among themselves, and such that do not. */
final class Groups {
    /** Without being told, clients look after their group only every 20 seconds. */
    private static final int TOLD = 10;
    private static final int FEW = 40;

    /** Members join, leave and die while messages flow. */
    static void rebalance() throws Exception {
        String topic = "rebalance-" + Interop.run;
        int queues = Flow.QUEUES;
        try (Flow flow = new Flow(topic); Group group = new Group(topic, Group.Kind.CONCURRENT)) {
            Group.Member second;
            Group.ProcessMember third;
            try (Check check = new Check("three consumers of a group share its queues")) {
                group.join("first");
                group.awaitShares(check, TOLD, queues, "first");
                second = group.join("second");
                group.awaitShares(check, TOLD, queues, "first", "second");
                third = group.joinAsProcess("third");
                group.awaitShares(check, TOLD, queues, "first", "second", "third");
            }
            try (Check check = new Check("the queues of a consumer that leaves go to the others at once")) {
                second.leave();
                group.awaitShares(check, TOLD, queues, "first", "third");
            }
            try (Check check = new Check("the queues of a consumer that is killed go to the others at once")) {
                third.kill();
                group.awaitShares(check, TOLD, queues, "first");
                group.join("fourth");
                group.awaitShares(check, TOLD, queues, "first", "fourth");
            }
            try (Check check = new Check("consumers came and went: nothing missed, every queue in its order")) {
                flow.stop();
                group.checkAgainst(flow, check);
                group.close();
                committed(check, topic, flow);
            }
        }
    }

    /** What a group has committed when its members have left is what it has consumed. */
    private static void committed(Check check, String topic, Flow flow) throws Exception {
        DefaultMQPullConsumer puller = Clients.puller(topic);
        try {
            for (MessageQueue queue : puller.fetchSubscribeMessageQueues(topic)) {
                long end = flow.ends().getOrDefault(queue.getQueueId(), 0L);
                check.that(Check.within(10, () -> puller.fetchConsumeOffset(queue, true) == end),
                    queue + " is committed up to " + puller.fetchConsumeOffset(queue, true) + ", not " + end);
            }
        } finally {
            puller.shutdown();
        }
    }

    /** Each queue has one consumer at a time, which must lock it first. */
    static void orderly() throws Exception {
        String topic = "orderly-" + Interop.run;
        int queues = Flow.QUEUES;
        // How long a client keeps a queue that it has not finished with, and how often it tries to lock those of others.
        String[] often = {"-Drocketmq.client.unlockDelayTimeMills=500", "-Drocketmq.client.rebalance.waitInterval=1000"};
        try (Flow flow = new Flow(topic); Group group = new Group(topic, Group.Kind.ORDERLY)) {
            Group.Member second;
            try (Check check = new Check("two orderly consumers share the queues")) {
                group.joinAsProcess("first", often);
                group.awaitShares(check, 20, queues, "first");
                second = group.joinAsProcess("second", often);
                group.awaitShares(check, 20, queues, "first", "second");
            }
            try (Check check = new Check("the queues of an orderly consumer that leaves go to the other")) {
                second.leave();
                group.awaitShares(check, 20, queues, "first");
            }
            try (Check check = new Check("orderly consumption: nothing missed, every queue in its order")) {
                flow.stop();
                group.checkAgainst(flow, check);
            }
            try (Check check = new Check("orderly consumption: no queue with two consumers at a time")) {
                // There and back again.
                group.checkApart(check, 2);
            }
        }
    }

    /** Every consumer gets everything, and remembers by itself where it was. */
    static void broadcast() throws Exception {
        String topic = "broadcast-" + Interop.run;
        String[] names = {Clients.instance(), Clients.instance()};
        DefaultMQProducer producer = Clients.producer();
        try {
            Sends.some(producer, topic, 0, FEW);
            try (Check check = new Check("broadcasting: every consumer receives everything");
                 Clients.Receiver first = Clients.Receiver.broadcasting(topic, topic, names[0]);
                 Clients.Receiver second = Clients.Receiver.broadcasting(topic, topic, names[1])) {
                for (Clients.Receiver receiver : new Clients.Receiver[] {first, second}) {
                    check.that(Check.within(30, () -> receiver.byKey.size() == FEW), "received " + receiver.byKey.size());
                }
                Sends.some(producer, topic, FEW, 2 * FEW);
                for (Clients.Receiver receiver : new Clients.Receiver[] {first, second}) {
                    check.that(Check.within(30, () -> receiver.byKey.size() == 2 * FEW), "received " + receiver.byKey.size());
                    check.same("messages", 2 * FEW, receiver.all.size());
                }
            }
            try (Check check = new Check("broadcasting: offsets are kept by the consumer, not by the broker")) {
                for (String name : names) {
                    check.that(offsets(name, topic), "no offsets of " + name);
                }
                Sends.some(producer, topic, 2 * FEW, 3 * FEW);
                try (Clients.Receiver again = Clients.Receiver.broadcasting(topic, topic, names[0])) {
                    check.that(Check.within(30, () -> again.byKey.size() >= FEW), "received " + again.byKey.size());
                    check.same("keys", Sends.keys(2 * FEW, 3 * FEW), new TreeSet<>(again.byKey.keySet()));
                }
                DefaultMQPullConsumer puller = Clients.puller(topic);
                for (MessageQueue queue : puller.fetchSubscribeMessageQueues(topic)) {
                    long known = puller.fetchConsumeOffset(queue, true);
                    check.that(known <= 0, "the broker has offset " + known + " of " + queue);
                }
                puller.shutdown();
            }
        } finally {
            producer.shutdown();
        }
    }

    private static boolean offsets(String instance, String group) throws Exception {
        Path home = Paths.get(System.getProperty("user.home"), ".rocketmq_offsets");
        try (Stream<Path> paths = Files.walk(home)) {
            return paths.map(Path::toString)
                .anyMatch(path -> path.contains("@" + instance) && path.endsWith("/" + group + "/offsets.json"));
        }
    }
}
