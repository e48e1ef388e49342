package keepmq.interop;

import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/** Messages that say themselves what they must be: sent to one broker, read from another that has opened its store. */
final class Known {
    private static Message known(String topic, int number) {
        StringBuilder body = new StringBuilder();
        // Some short, some long enough to be compressed.
        for (int words = 0; words <= number % 50 * 40; words++) {
            body.append(number).append(' ');
        }
        byte[] bytes = body.toString().getBytes(StandardCharsets.UTF_8);
        Message message = new Message(topic, "tag" + number % 3, "key-" + number, bytes);
        message.setFlag(number);
        message.putUserProperty("number", String.valueOf(number));
        return message;
    }

    static void send(String topic, int count) throws Exception {
        DefaultMQProducer producer = Clients.producer();
        try (Check check = new Check(count + " messages for another broker to read")) {
            for (int number = 0; number < count; number++) {
                SendResult result = producer.send(known(topic, number));
                check.same("status", SendStatus.SEND_OK, result.getSendStatus());
            }
        } finally {
            producer.shutdown();
        }
    }

    static void read(String topic, int count) throws Exception {
        try (Check check = new Check(count + " messages read from another broker's store");
             Clients.Receiver receiver = new Clients.Receiver("known-" + Clients.instance(), topic, "*")) {
            check.that(Check.within(60, () -> receiver.byKey.size() >= count), "received " + receiver.byKey.size());
            check.same("messages", count, receiver.all.size());
            for (int number = 0; number < count; number++) {
                Message expected = known(topic, number);
                MessageExt message = receiver.byKey.get("key-" + number);
                if (message == null) {
                    check.that(false, "key-" + number + " is missing");
                    continue;
                }
                check.same("body", new String(expected.getBody(), StandardCharsets.UTF_8),
                    new String(message.getBody(), StandardCharsets.UTF_8));
                check.same("tags", expected.getTags(), message.getTags());
                check.same("flag", expected.getFlag(), message.getFlag());
                check.same("property", expected.getUserProperty("number"), message.getUserProperty("number"));
            }
        }
    }
}
