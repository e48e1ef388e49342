package keepmq.interop;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** What consumers receive. */
final class Consumes {
    static void all() throws Exception {
        DefaultMQProducer producer = Clients.producer();
        try {
            unchanged(producer);
            tags(producer);
            byHand(producer);
            longPolling(producer);
            byId(producer);
        } finally {
            producer.shutdown();
        }
    }

    private static byte[] random(int size) {
        byte[] body = new byte[size];
        new Random(size).nextBytes(body);
        return body;
    }

    private static void unchanged(DefaultMQProducer producer) throws Exception {
        String topic = "unchanged-" + Interop.run;
        byte[] text = new byte[100_000];
        Arrays.fill(text, (byte) 'x');
        // The client compresses what is longer than 4 KiB.
        byte[][] bodies = {random(1), random(1000), text, random(3_000_000), "ünïcödé ✓".getBytes(StandardCharsets.UTF_8)};
        Map<String, Message> sent = new HashMap<>();
        Map<String, SendResult> results = new HashMap<>();
        for (int number = 0; number < bodies.length; number++) {
            Message message = new Message(topic, "tag" + number, "key-" + number, bodies[number]);
            message.setFlag(1000 + number);
            message.putUserProperty("user", "value " + number + " ü");
            SendResult result = producer.send(message);
            if (result.getSendStatus() != SendStatus.SEND_OK) {
                throw new IllegalStateException("a body of " + bodies[number].length + " bytes: " + result);
            }
            results.put("key-" + number, result);
            sent.put("key-" + number, message);
        }
        try (Check check = new Check("a push consumer receives every body unchanged");
             Clients.Receiver receiver = new Clients.Receiver("unchanged-" + Interop.run, topic, "*")) {
            check.that(Check.within(30, () -> receiver.byKey.keySet().equals(sent.keySet())),
                "received " + receiver.byKey.keySet());
            receiver.byKey.forEach((key, message) -> {
                Message expected = sent.get(key);
                SendResult result = results.get(key);
                check.that(Arrays.equals(expected.getBody(), message.getBody()), "the body of " + key + " is another");
                check.same("tags of " + key, expected.getTags(), message.getTags());
                check.same("flag of " + key, expected.getFlag(), message.getFlag());
                check.same("property of " + key, expected.getUserProperty("user"), message.getUserProperty("user"));
                check.same("topic of " + key, topic, message.getTopic());
                check.same("msgId of " + key, result.getMsgId(), message.getMsgId());
                check.same("queueOffset of " + key, result.getQueueOffset(), message.getQueueOffset());
                check.same("queueId of " + key, result.getMessageQueue().getQueueId(), message.getQueueId());
                check.same("reconsumeTimes of " + key, 0, message.getReconsumeTimes());
                long late = message.getStoreTimestamp() - message.getBornTimestamp();
                check.that(late >= -1000 && late < 60_000, "storeTimestamp is " + late + " ms after bornTimestamp");
                check.that(message.getBornHostString().contains("127.0.0.1"), "bornHost " + message.getBornHost());
            });
        }
    }

    private static void tags(DefaultMQProducer producer) throws Exception {
        String topic = "tags-" + Interop.run;
        // "Aa" and "BB" have the same hash: the broker lets both pass, the client must tell them apart.
        String[] tags = {"A", "B", "C", "Aa", "BB"};
        for (int number = 0; number < 50; number++) {
            producer.send(new Message(topic, tags[number % 5], "key-" + number, random(10)));
        }
        try (Check check = new Check("tags filter");
             Clients.Receiver receiver = new Clients.Receiver("tags-" + Interop.run, topic, "A || C || Aa")) {
            check.that(Check.within(30, () -> receiver.all.size() >= 30), "received " + receiver.all.size());
            Thread.sleep(500);
            check.same("messages", 30, receiver.all.size());
            Set<String> seen = receiver.all.stream().map(MessageExt::getTags).collect(Collectors.toCollection(TreeSet::new));
            check.same("tags", new TreeSet<>(Arrays.asList("A", "C", "Aa")), seen);
        }
    }

    private static void byHand(DefaultMQProducer producer) throws Exception {
        String topic = "hand-" + Interop.run;
        List<SendResult> results = new ArrayList<>();
        for (int number = 0; number < 100; number++) {
            results.add(producer.send(Sends.message(topic, number)));
        }
        DefaultMQPullConsumer puller = Clients.puller("hand-" + Interop.run);
        try (Check check = new Check("pulling by hand")) {
            int found = 0;
            for (MessageQueue queue : Check.eventually(10, () -> puller.fetchSubscribeMessageQueues(topic))) {
                check.same("minOffset", 0L, puller.minOffset(queue));
                long max = puller.maxOffset(queue);
                long offset = 0;
                while (true) {
                    PullResult pulled = puller.pull(queue, "*", offset, 7);
                    check.same("maxOffset of a pull", max, pulled.getMaxOffset());
                    if (pulled.getPullStatus() != PullStatus.FOUND) {
                        check.same("status at the end", PullStatus.NO_NEW_MSG, pulled.getPullStatus());
                        check.same("offset at the end", max, offset);
                        break;
                    }
                    for (MessageExt message : pulled.getMsgFoundList()) {
                        check.same("queueOffset", offset, message.getQueueOffset());
                        offset++;
                        found++;
                    }
                    check.same("nextBeginOffset", offset, pulled.getNextBeginOffset());
                }
                PullResult beyond = puller.pull(queue, "*", max + 1000, 7);
                check.same("status beyond the end", PullStatus.OFFSET_ILLEGAL, beyond.getPullStatus());
                check.same("nextBeginOffset beyond the end", max, beyond.getNextBeginOffset());
                check.same("search for the first time", 0L, puller.searchOffset(queue, 0));
                check.same("search for a time to come", max, puller.searchOffset(queue, System.currentTimeMillis() + 60_000));
                check.that(puller.earliestMsgStoreTime(queue) > 0, "earliestMsgStoreTime");
                check.same("offset of a new group", -1L, Math.min(0, puller.fetchConsumeOffset(queue, true)) - 1);
                puller.updateConsumeOffset(queue, 5);
                puller.getDefaultMQPullConsumerImpl().getOffsetStore().updateConsumeOffsetToBroker(queue, 5, false);
                check.same("committed offset", 5L, puller.fetchConsumeOffset(queue, true));
            }
            check.same("messages", results.size(), found);
        } finally {
            puller.shutdown();
        }
    }

    private static void longPolling(DefaultMQProducer producer) throws Exception {
        String topic = "long-" + Interop.run;
        producer.send(Sends.message(topic, -1));
        MessageQueue queue = Clients.queues(producer, topic).get(0);
        DefaultMQPullConsumer puller = Clients.puller("long-" + Interop.run);
        try (Check check = new Check("a held pull is answered when a message comes")) {
            long max = puller.maxOffset(queue);
            CompletableFuture<PullResult> held = CompletableFuture.supplyAsync(() -> {
                try {
                    return puller.pullBlockIfNotFound(queue, "*", max, 32);
                } catch (Exception error) {
                    throw new IllegalStateException(error);
                }
            });
            Thread.sleep(1000);
            check.that(!held.isDone(), "it was answered with nothing there");
            producer.send(Sends.message(topic, 1), queue);
            PullResult pulled = held.get(5, TimeUnit.SECONDS);
            check.same("status", PullStatus.FOUND, pulled.getPullStatus());
            check.same("messages", 1, pulled.getMsgFoundList().size());
        } finally {
            puller.shutdown();
        }
    }

    private static void byId(DefaultMQProducer producer) throws Exception {
        String topic = "view-" + Interop.run;
        DefaultMQPullConsumer puller = Clients.puller("view-" + Interop.run);
        try (Check check = new Check("a message is found by its id")) {
            for (int number = 0; number < 10; number++) {
                Message message = Sends.message(topic, number);
                SendResult result = producer.send(message);
                MessageExt viewed = puller.viewMessage(topic, result.getOffsetMsgId());
                check.that(Arrays.equals(message.getBody(), viewed.getBody()), "the body is another");
                check.same("queueOffset", result.getQueueOffset(), viewed.getQueueOffset());
                check.same("keys", message.getKeys(), viewed.getKeys());
            }
        } finally {
            puller.shutdown();
        }
    }
}
