package keepmq.interop;

import java.io.File;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Arrays;
import java.util.Collections;
import java.util.Map;
import java.util.Objects;
import org.apache.rocketmq.common.MQVersion;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;
import org.apache.rocketmq.remoting.protocol.RemotingSerializable;

/** Frames and records that KeepMQ has written, read by RocketMQ's own code; each has a .json with what must come out. */
final class Golden {
    /** RocketMQ 4 knows no topics of more than a byte's length. */
    private static final boolean LONG_TOPICS = !MQVersion.getVersionDesc(MQVersion.CURRENT_VERSION).startsWith("V4");

    static void all(String folder) throws Exception {
        File[] files = Objects.requireNonNull(new File(folder).listFiles(), folder + " is no folder");
        Arrays.sort(files);
        int read = 0;
        try (Check check = new Check("frames and records of KeepMQ decoded by Java")) {
            for (File file : files) {
                String name = file.getName();
                int dot = name.lastIndexOf('.');
                String kind = name.substring(dot + 1);
                if (kind.equals("json")) {
                    continue;
                }
                byte[] bytes = Files.readAllBytes(file.toPath());
                File facts = new File(folder, name.substring(0, dot) + ".json");
                Map<?, ?> expected = RemotingSerializable.fromJson(
                    new String(Files.readAllBytes(facts.toPath()), StandardCharsets.UTF_8), Map.class);
                if (kind.equals("frame")) {
                    frame(check, name, bytes, expected);
                    read++;
                } else if (LONG_TOPICS || expected.get("topic").toString().length() < 128) {
                    record(check, name, bytes, expected);
                    read++;
                }
            }
            check.that(read > 20, "only " + read + " files in " + folder);
        }
    }

    private static long number(Map<?, ?> facts, String name) {
        return ((Number) facts.get(name)).longValue();
    }

    private static void frame(Check check, String name, byte[] bytes, Map<?, ?> facts) throws Exception {
        ByteBuffer buffer = ByteBuffer.wrap(bytes);
        check.same(name + ": length", bytes.length - 4, buffer.getInt());
        RemotingCommand command = RemotingCommand.decode(buffer.slice());
        check.same(name + ": code", number(facts, "code"), (long) command.getCode());
        check.same(name + ": flag", number(facts, "flag"), (long) command.getFlag());
        check.same(name + ": opaque", number(facts, "opaque"), (long) command.getOpaque());
        check.same(name + ": version", number(facts, "version"), (long) command.getVersion());
        check.same(name + ": remark", facts.get("remark"), command.getRemark());
        Map<?, ?> fields = command.getExtFields() == null ? Collections.emptyMap() : command.getExtFields();
        check.same(name + ": fields", facts.get("fields"), fields);
        byte[] body = command.getBody() == null ? new byte[0] : command.getBody();
        check.same(name + ": length of the body", number(facts, "body_len"), (long) body.length);
        check.same(name + ": body", facts.get("body"), new String(body, StandardCharsets.UTF_8));
    }

    private static void record(Check check, String name, byte[] bytes, Map<?, ?> facts) throws Exception {
        MessageExt message = MessageDecoder.decode(ByteBuffer.wrap(bytes), true, true);
        if (message == null) {
            check.that(false, name + " cannot be decoded");
            return;
        }
        check.same(name + ": topic", facts.get("topic"), message.getTopic());
        check.same(name + ": size", bytes.length, message.getStoreSize());
        check.same(name + ": queue_id", number(facts, "queue_id"), (long) message.getQueueId());
        check.same(name + ": flag", number(facts, "flag"), (long) message.getFlag());
        check.same(name + ": queue_offset", number(facts, "queue_offset"), message.getQueueOffset());
        check.same(name + ": at", number(facts, "at"), message.getCommitLogOffset());
        check.same(name + ": sys_flag", number(facts, "sys_flag"), (long) message.getSysFlag());
        check.same(name + ": born_at", number(facts, "born_at"), message.getBornTimestamp());
        check.same(name + ": born_host", address(facts, "born_host"), message.getBornHost());
        check.same(name + ": stored", number(facts, "stored"), message.getStoreTimestamp());
        check.same(name + ": store_host", address(facts, "store_host"), message.getStoreHost());
        check.same(name + ": reconsume_times", number(facts, "reconsume_times"), (long) message.getReconsumeTimes());
        check.same(name + ": prepared", number(facts, "prepared"), message.getPreparedTransactionOffset());
        check.same(name + ": body", facts.get("body"), new String(message.getBody(), StandardCharsets.UTF_8));
        check.same(name + ": body_crc", number(facts, "body_crc"), (long) message.getBodyCRC());
        check.same(name + ": msg_id", facts.get("msg_id"), message.getMsgId());
        check.same(name + ": tag_hash", number(facts, "tag_hash"), (long) message.getTags().hashCode());
        ((Map<?, ?>) facts.get("properties")).forEach((key, value) ->
            check.same(name + ": property " + key, value, message.getProperties().get(key)));
    }

    private static InetSocketAddress address(Map<?, ?> facts, String name) throws Exception {
        String text = facts.get(name).toString();
        int colon = text.lastIndexOf(':');
        String host = text.substring(0, colon).replace("[", "").replace("]", "");
        return new InetSocketAddress(InetAddress.getByName(host), Integer.parseInt(text.substring(colon + 1)));
    }
}
