package keepmq.interop;

import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.MessageQueueListener;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Consumers that ask when they want to. */
final class Pulls {
    private static final int MANY = 80;

    static void all() throws Exception {
        DefaultMQProducer producer = Clients.producer();
        try {
            byQueue(producer);
            subscribed(producer);
            assigned(producer);
        } finally {
            producer.shutdown();
        }
    }

    /** Gets its queues by rebalance, pulls from each, and says itself how far it is. */
    private static void byQueue(DefaultMQProducer producer) throws Exception {
        String topic = "by-queue-" + Interop.run;
        Map<Integer, Long> ends = Sends.some(producer, topic, 0, MANY);
        Set<String> received = new TreeSet<>();
        try (Check check = new Check("a pull consumer gets its queues, commits and leaves")) {
            Set<MessageQueue> mine = ConcurrentHashMap.newKeySet();
            DefaultMQPullConsumer puller = registered(topic, mine);
            check.that(Check.within(10, () -> mine.size() == 4), "its queues are " + mine);
            for (MessageQueue queue : mine) {
                PullResult pulled = puller.pull(queue, "*", 0, 10);
                check.same("status", PullStatus.FOUND, pulled.getPullStatus());
                check.same("messages", 10, pulled.getMsgFoundList().size());
                pulled.getMsgFoundList().forEach(message -> received.add(message.getKeys()));
                puller.updateConsumeOffset(queue, pulled.getNextBeginOffset());
            }
            puller.shutdown();
        }
        try (Check check = new Check("another pull consumer of the group goes on where the first was")) {
            Set<MessageQueue> mine = ConcurrentHashMap.newKeySet();
            DefaultMQPullConsumer puller = registered(topic, mine);
            check.that(Check.within(10, () -> mine.size() == 4), "its queues are " + mine);
            for (MessageQueue queue : mine) {
                // The last act of the one that left is a request that nobody answers.
                check.that(Check.within(10, () -> puller.fetchConsumeOffset(queue, true) == 10),
                    "offset " + puller.fetchConsumeOffset(queue, true) + " of " + queue);
                PullResult pulled = puller.pull(queue, "*", puller.fetchConsumeOffset(queue, true), 32);
                check.same("messages", (int) (ends.get(queue.getQueueId()) - 10), pulled.getMsgFoundList().size());
                pulled.getMsgFoundList().forEach(message ->
                    check.that(received.add(message.getKeys()), message.getKeys() + " for the second time"));
            }
            check.same("keys", Sends.keys(0, MANY), received);
            puller.shutdown();
        }
    }

    private static DefaultMQPullConsumer registered(String topic, Set<MessageQueue> mine) throws Exception {
        DefaultMQPullConsumer puller = new DefaultMQPullConsumer(topic);
        puller.setNamesrvAddr(Interop.nameServer);
        puller.setInstanceName(Clients.instance());
        puller.registerMessageQueueListener(topic, new MessageQueueListener() {
            @Override
            public void messageQueueChanged(String changed, Set<MessageQueue> all, Set<MessageQueue> divided) {
                mine.addAll(divided);
            }
        });
        puller.start();
        return puller;
    }

    private static DefaultLitePullConsumer lite(String group) throws Exception {
        DefaultLitePullConsumer lite = new DefaultLitePullConsumer(group);
        lite.setNamesrvAddr(Interop.nameServer);
        lite.setInstanceName(Clients.instance());
        lite.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        lite.setAutoCommit(false);
        return lite;
    }

    /** Polls until it has this many. */
    private static List<MessageExt> poll(DefaultLitePullConsumer lite, int count) throws Exception {
        List<MessageExt> polled = new ArrayList<>();
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(20);
        while (polled.size() < count && System.nanoTime() < end) {
            polled.addAll(lite.poll(200));
        }
        return polled;
    }

    /** How far these messages go in each queue. */
    private static Map<Integer, Long> ends(Collection<MessageExt> messages) {
        Map<Integer, Long> ends = new HashMap<>();
        messages.forEach(message -> ends.merge(message.getQueueId(), message.getQueueOffset() + 1, Math::max));
        return ends;
    }

    private static void subscribed(DefaultMQProducer producer) throws Exception {
        String topic = "lite-" + Interop.run;
        Sends.some(producer, topic, 0, MANY);
        Map<Integer, Long> committed;
        Set<String> before = new TreeSet<>();
        try (Check check = new Check("a lite pull consumer subscribes, polls and commits")) {
            DefaultLitePullConsumer lite = lite(topic);
            lite.setPullBatchSize(5);
            lite.subscribe(topic, "*");
            lite.start();
            List<MessageExt> polled = poll(lite, MANY / 2);
            check.that(polled.size() >= MANY / 2, "polled " + polled.size());
            committed = ends(polled);
            polled.forEach(message -> check.that(before.add(message.getKeys()), message.getKeys() + " twice"));
            lite.commitSync();
            for (MessageQueue queue : lite.assignment()) {
                check.same("committed of " + queue, committed.getOrDefault(queue.getQueueId(), 0L), Math.max(0, lite.committed(queue)));
            }
            // Polled and not committed: another one must get them again.
            List<MessageExt> late = poll(lite, MANY - polled.size());
            check.same("messages", MANY, polled.size() + late.size());
            lite.shutdown();
        }
        try (Check check = new Check("a lite pull consumer goes on at the committed offset after a restart")) {
            DefaultLitePullConsumer lite = lite(topic);
            lite.subscribe(topic, "*");
            lite.start();
            List<MessageExt> polled = poll(lite, MANY - before.size());
            Map<Integer, Long> first = new HashMap<>();
            polled.forEach(message -> first.merge(message.getQueueId(), message.getQueueOffset(), Math::min));
            first.forEach((queue, offset) -> check.same("first of queue " + queue, committed.getOrDefault(queue, 0L), offset));
            Set<String> after = new TreeSet<>();
            polled.forEach(message -> after.add(message.getKeys()));
            Set<String> missing = Sends.keys(0, MANY);
            missing.removeAll(before);
            check.same("keys", missing, after);
            Sends.some(producer, topic, MANY, MANY + 8);
            check.same("new messages", 8, poll(lite, 8).size());
            lite.commitSync();
            lite.shutdown();
        }
    }

    private static void assigned(DefaultMQProducer producer) throws Exception {
        String topic = "assign-" + Interop.run;
        Map<Integer, Long> ends = Sends.some(producer, topic, 0, MANY);
        DefaultLitePullConsumer lite = lite(topic);
        lite.start();
        try (Check check = new Check("a lite pull consumer is assigned queues and seeks in them")) {
            Collection<MessageQueue> queues = Check.eventually(10, () -> lite.fetchMessageQueues(topic));
            check.same("queues", 4, queues.size());
            lite.assign(queues);
            check.same("messages", MANY, poll(lite, MANY).size());
            MessageQueue queue = queues.iterator().next();
            long each = ends.get(queue.getQueueId());
            lite.assign(List.of(queue));
            long middle = each / 2;
            lite.seek(queue, middle);
            offsets(check, "behind the middle", lite, middle, each);
            lite.seekToBegin(queue);
            offsets(check, "from the beginning", lite, 0, each);
            long time = lite.offsetForTimestamp(queue, System.currentTimeMillis() + 60_000);
            check.same("offset of a time to come", each, time);
            check.same("offset of the first time", 0L, (long) lite.offsetForTimestamp(queue, 0L));
            lite.seekToEnd(queue);
            check.same("message at the end", 0, lite.poll(500).size());
            Sends.kept(producer.send(Sends.message(topic, MANY), queue));
            offsets(check, "behind the end", lite, each, each + 1);
            lite.commitSync(Map.of(queue, middle), true);
            DefaultMQPullConsumer puller = Clients.puller(topic);
            check.that(Check.within(10, () -> puller.fetchConsumeOffset(queue, true) == middle),
                "the broker has " + puller.fetchConsumeOffset(queue, true) + ", not " + middle);
            puller.shutdown();
        } finally {
            lite.shutdown();
        }
    }

    /** What is polled now are these offsets, each once and in order. */
    private static void offsets(Check check, String what, DefaultLitePullConsumer lite, long from, long to) throws Exception {
        List<Long> expected = new ArrayList<>();
        for (long offset = from; offset < to; offset++) {
            expected.add(offset);
        }
        List<Long> polled = new ArrayList<>();
        poll(lite, expected.size()).forEach(message -> polled.add(message.getQueueOffset()));
        check.same("offsets " + what, expected, polled);
    }
}
