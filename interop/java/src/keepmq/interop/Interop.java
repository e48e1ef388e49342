package keepmq.interop;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;

/**
 * RocketMQ's client against a broker, checking itself. The arguments are the name server and a word that makes names
 * new. Each line of the input is a command; each check prints "ok NAME" or "FAIL NAME: REASON", each command ends with "done".
 * Between commands somebody else may kill, stop and start the servers.
 */
public final class Interop {
    static String nameServer;
    static String run;

    public static void main(String[] args) throws Exception {
        nameServer = args[0];
        run = args[1];
        if (args.length > 2) {
            Group.member(args[3], Group.Kind.valueOf(args[4]));
            System.exit(0);
        }
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        Across across = new Across();
        Peer peer = new Peer();
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            String[] words = line.trim().split(" +");
            try {
                command(words, across, peer);
            } catch (Throwable error) {
                error.printStackTrace();
                System.out.println("FAIL " + line + ": " + error);
            }
            System.out.println("done");
        }
        System.exit(0);
    }

    private static void command(String[] words, Across across, Peer peer) throws Exception {
        switch (words[0]) {
            case "send": Sends.all(); break;
            case "consume": Consumes.all(); break;
            case "rebalance": Groups.rebalance(); break;
            case "orderly": Groups.orderly(); break;
            case "broadcast": Groups.broadcast(); break;
            case "pull": Pulls.all(); break;
            case "offsets-begin": across.offsetsBegin(words[1]); break;
            case "offsets-end": across.offsetsEnd(words[1]); break;
            case "clients-begin": across.clientsBegin(words[1]); break;
            case "clients-end": across.clientsEnd(words[1]); break;
            case "known-send": Known.send(words[1], Integer.parseInt(words[2])); break;
            case "known-read": Known.read(words[1], Integer.parseInt(words[2])); break;
            case "golden": Golden.all(words[1]); break;
            case "peer-send": Peer.send(words[1]); break;
            case "peer-take": Peer.take(words[1], words[2], words[3], Integer.parseInt(words[4])); break;
            case "peer-join": peer.join(words[1], words[2], words[3]); break;
            case "peer-owns": peer.owns(words[1], words[2]); break;
            case "peer-leave": peer.leave(words[1]); break;
            default: throw new IllegalArgumentException("no such command: " + words[0]);
        }
    }
}
