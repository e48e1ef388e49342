package keepmq.interop;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.BooleanSupplier;
import java.util.function.Consumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.message.MessageExt;

/** A consumer group whose members come and go, as objects or as processes, and every delivery that any of them has had. */
final class Group implements AutoCloseable {
    enum Kind { CONCURRENT, ORDERLY }

    /** Stamps are of the system's monotonic clock, which all processes share. */
    static final class Delivery {
        final String member;
        final int queue;
        final long offset;
        final String key;
        final long begin;
        final long end;

        private Delivery(String member, String line) {
            String[] words = line.split(" ");
            this.member = member;
            queue = Integer.parseInt(words[1]);
            offset = Long.parseLong(words[2]);
            key = words[3];
            begin = Long.parseLong(words[4]);
            end = Long.parseLong(words[5]);
        }
    }

    interface Member {
        void leave() throws Exception;
    }

    /** So many deliveries in a row make a member the owner of a queue. */
    private static final int OWNED = 5;

    final String topic;
    private final Kind kind;
    private final ConcurrentLinkedQueue<Delivery> deliveries = new ConcurrentLinkedQueue<>();
    private final Map<Integer, Delivery> latest = new ConcurrentHashMap<>();
    /** How many deliveries of a queue, up to the latest, were one member's. */
    private final Map<Integer, Integer> inARow = new ConcurrentHashMap<>();
    private final Set<String> keys = ConcurrentHashMap.newKeySet();
    private final List<AutoCloseable> running = Collections.synchronizedList(new ArrayList<>());

    /** The group is called as its topic. */
    Group(String topic, Kind kind) {
        this.topic = topic;
        this.kind = kind;
    }

    private static DefaultMQPushConsumer consumer(String group, Kind kind, BooleanSupplier leaving, Consumer<String> said)
        throws Exception {
        DefaultMQPushConsumer consumer = Clients.pusher(group, Clients.instance());
        consumer.subscribe(group, "*");
        if (kind == Kind.ORDERLY) {
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                // A client that shuts down gives its locks back while its threads still work.
                if (leaving.getAsBoolean()) {
                    return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
                }
                messages.forEach(message -> take(message, 2, said));
                return ConsumeOrderlyStatus.SUCCESS;
            });
        } else {
            // One thread, so that the order of a queue is the order in which it is consumed.
            consumer.setConsumeThreadMin(1);
            consumer.setConsumeThreadMax(1);
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                messages.forEach(message -> take(message, 0, said));
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
        }
        consumer.start();
        return consumer;
    }

    /** Is said before the client hears of the success: whatever has been committed is known. */
    private static void take(MessageExt message, long millis, Consumer<String> said) {
        long begin = System.nanoTime();
        try {
            // Long enough for another member to be caught at the same queue.
            Thread.sleep(millis);
        } catch (InterruptedException stop) {
            Thread.currentThread().interrupt();
        }
        said.accept(String.join(" ", "took", String.valueOf(message.getQueueId()),
            String.valueOf(message.getQueueOffset()), message.getKeys(), String.valueOf(begin),
            String.valueOf(System.nanoTime())));
    }

    private synchronized void took(String member, String line) {
        Delivery delivery = new Delivery(member, line);
        deliveries.add(delivery);
        keys.add(delivery.key);
        Delivery before = latest.put(delivery.queue, delivery);
        boolean again = before != null && before.member.equals(member);
        inARow.merge(delivery.queue, 1, (count, one) -> again ? count + one : one);
    }

    /** One more in this process. */
    Member join(String name) throws Exception {
        AtomicBoolean leaving = new AtomicBoolean();
        DefaultMQPushConsumer consumer = consumer(topic, kind, leaving::get, line -> took(name, line));
        Member member = () -> {
            leaving.set(true);
            consumer.shutdown();
        };
        running.add(member::leave);
        return member;
    }

    /** One more in a process of its own. */
    ProcessMember joinAsProcess(String name, String... properties) throws Exception {
        ProcessMember member = new ProcessMember(name, properties);
        running.add(member::kill);
        return member;
    }

    final class ProcessMember implements Member {
        private final Process process;
        private final Thread reader;

        private ProcessMember(String name, String[] properties) throws Exception {
            List<String> words = new ArrayList<>(Arrays.asList(System.getProperty("java.home") + "/bin/java", "-Xmx256m",
                "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"));
            for (String property : Arrays.asList("user.home", "rocketmq.client.logRoot")) {
                words.add("-D" + property + "=" + System.getProperty(property));
            }
            words.addAll(Arrays.asList(properties));
            words.addAll(Arrays.asList("-cp", System.getProperty("java.class.path"), "keepmq.interop.Interop",
                Interop.nameServer, Interop.run + "-" + name, "member", topic, kind.name()));
            process = new ProcessBuilder(words).redirectError(ProcessBuilder.Redirect.INHERIT).start();
            BufferedReader lines = new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8));
            reader = new Thread(() -> lines.lines().filter(line -> line.startsWith("took ")).forEach(line -> took(name, line)));
            reader.start();
        }

        /** It shuts its consumer down when there is no more to read. */
        @Override
        public void leave() throws Exception {
            process.getOutputStream().close();
            int status = process.waitFor();
            reader.join();
            if (status != 0) {
                throw new IllegalStateException("a member ended with " + status);
            }
        }

        /** SIGKILL. */
        void kill() throws Exception {
            process.destroyForcibly().waitFor();
            reader.join();
        }
    }

    /** What such a process does. */
    static void member(String topic, Kind kind) throws Exception {
        AtomicBoolean leaving = new AtomicBoolean();
        DefaultMQPushConsumer consumer = consumer(topic, kind, leaving::get, line -> {
            synchronized (System.out) {
                System.out.println(line);
                System.out.flush();
            }
        });
        while (System.in.read() >= 0) {
            // There are no commands.
        }
        leaving.set(true);
        consumer.shutdown();
    }

    /** Waits until all queues are shared out among exactly these members, judged by deliveries from now on only. */
    void awaitShares(Check check, int seconds, int queues, String... members) throws Exception {
        long since = System.nanoTime();
        int least = queues / members.length;
        boolean shared = Check.within(seconds, () -> {
            Map<String, Integer> owned = owners(since);
            return owned.values().stream().mapToInt(Integer::intValue).sum() == queues
                && owned.size() == members.length
                && Arrays.stream(members).allMatch(member -> owned.getOrDefault(member, 0) >= least);
        });
        check.that(shared, "after " + seconds + " s " + Arrays.toString(members) + " do not share "
            + queues + " queues fairly, but have " + owners(since));
    }

    /** How many queues every member was the only one to receive from of late, since then. */
    private synchronized Map<String, Integer> owners(long since) {
        Map<String, Integer> owned = new TreeMap<>();
        for (Delivery delivery : latest.values()) {
            if (delivery.begin > since && inARow.get(delivery.queue) >= OWNED) {
                owned.merge(delivery.member, 1, Integer::sum);
            }
        }
        return owned;
    }

    /** Nothing that was acknowledged is missing, and the first deliveries of every queue stand in its order. */
    void checkAgainst(Flow flow, Check check) throws Exception {
        check.that(Check.within(30, () -> keys.containsAll(flow.acknowledged())), "of " + flow.acknowledged().size()
            + " acknowledged messages " + flow.acknowledged().stream().filter(key -> !keys.contains(key)).count() + " are missing");
        Map<Integer, Long> next = new HashMap<>();
        for (Delivery delivery : inOrder()) {
            long expected = next.getOrDefault(delivery.queue, 0L);
            check.that(delivery.offset <= expected, "queue " + delivery.queue + ": " + delivery.member + " received "
                + delivery.offset + " before " + expected);
            if (delivery.offset >= expected) {
                String sent = flow.at(delivery.queue, delivery.offset);
                check.same("key at queue " + delivery.queue + ", offset " + delivery.offset, sent, delivery.key);
                next.put(delivery.queue, delivery.offset + 1);
            }
        }
        check.same("end of every queue", flow.ends(), next);
    }

    /** No two members have been at work on one queue at the same time, nor in turns: it changed hands only so often. */
    void checkApart(Check check, int handovers) {
        Map<Integer, Delivery> before = new HashMap<>();
        Map<Integer, Integer> changes = new HashMap<>();
        for (Delivery delivery : inOrder()) {
            Delivery last = before.get(delivery.queue);
            check.that(last == null || last.end <= delivery.begin, "queue " + delivery.queue + ": " + delivery.member
                + " began " + delivery.offset + " while " + (last == null ? "" : last.member + " was at " + last.offset));
            if (last == null || delivery.end > last.end) {
                before.put(delivery.queue, delivery);
            }
            if (last != null && !last.member.equals(delivery.member)) {
                changes.merge(delivery.queue, 1, Integer::sum);
            }
        }
        changes.forEach((queue, times) ->
            check.that(times <= handovers, "queue " + queue + " changed hands " + times + " times, not " + handovers));
    }

    private List<Delivery> inOrder() {
        List<Delivery> all = new ArrayList<>(deliveries);
        all.sort(Comparator.comparingLong(delivery -> delivery.begin));
        return all;
    }

    @Override
    public void close() throws Exception {
        for (AutoCloseable member : running) {
            member.close();
        }
    }
}
