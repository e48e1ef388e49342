package keepmq.interop;

import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

/** One check: many comparisons, one line. */
final class Check implements AutoCloseable {
    private final String name;
    private final List<String> complaints = new ArrayList<>();

    Check(String name) {
        this.name = name;
    }

    void same(String what, Object expected, Object seen) {
        that(Objects.equals(expected, seen), what + " is " + seen + ", not " + expected);
    }

    synchronized void that(boolean holds, String complaint) {
        if (!holds) {
            complaints.add(complaint);
        }
    }

    @Override
    public synchronized void close() {
        if (complaints.isEmpty()) {
            System.out.println("ok " + name);
        } else {
            int shown = Math.min(5, complaints.size());
            System.out.println("FAIL " + name + ": " + String.join("; ", complaints.subList(0, shown))
                + (shown < complaints.size() ? " and " + (complaints.size() - shown) + " more" : ""));
        }
    }

    /** Something that may fail. */
    interface Attempt<T> {
        T get() throws Exception;
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    /** Polls until the condition holds; answers whether it did in time. */
    static boolean within(int seconds, Condition condition) throws Exception {
        long end = System.nanoTime() + seconds * 1_000_000_000L;
        while (!condition.holds()) {
            if (System.nanoTime() > end) {
                return false;
            }
            Thread.sleep(20);
        }
        return true;
    }

    /** Tries until it goes without an exception; the last one is thrown when time is up. */
    static <T> T eventually(int seconds, Attempt<T> attempt) throws Exception {
        long end = System.nanoTime() + seconds * 1_000_000_000L;
        while (true) {
            try {
                return attempt.get();
            } catch (Exception error) {
                if (System.nanoTime() > end) {
                    throw error;
                }
                Thread.sleep(200);
            }
        }
    }
}
