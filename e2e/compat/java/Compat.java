// Runs checks with the official Java client: a line on stdin begins one, a JSON line on stdout ends
// it. Every check runs in a thread of its own, with topics and groups of its own, so that many run
// at once. Compiled against each client release that is checked: it uses only what they share.
package dev.gantry.compat;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.CountDownLatch;

public final class Compat {
    interface Check {
        void run(Bench bench) throws Exception;
    }

    private static final Map<String, Check> CHECKS = new LinkedHashMap<>();

    static {
        Sends.add(CHECKS);
        Pushes.add(CHECKS);
        Pulls.add(CHECKS);
        Groups.add(CHECKS);
        Connections.add(CHECKS);
    }

    /** Opened when the harness has restarted the broker. */
    static final CountDownLatch RESTARTED = new CountDownLatch(1);
    private static final PrintStream ANSWERS = System.out;

    public static void main(String[] args) throws Exception {
        System.setOut(System.err); // log libraries print; the answers must stay clean
        BufferedReader commands =
            new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            if (line.equals("restarted")) {
                RESTARTED.countDown();
                continue;
            }
            Bench bench = new Bench(line.split("\t"));
            new Thread(() -> run(bench), bench.check).start();
        }
        Runtime.getRuntime().halt(0); // the harness is gone: nothing to say goodbye to
    }

    private static void run(Bench bench) {
        long begun = System.currentTimeMillis();
        String outcome = "pass";
        String reason = "";
        try {
            CHECKS.get(bench.check).run(bench);
        } catch (Bench.Differs differs) {
            outcome = "differs";
            reason = differs.getMessage();
        } catch (Throwable thrown) {
            outcome = "threw";
            reason = thrown.toString();
            for (Throwable cause = thrown.getCause(); cause != null; cause = cause.getCause()) {
                reason += " | " + cause;
            }
        }
        answer(bench.check, outcome, reason, System.currentTimeMillis() - begun);
        bench.close();
    }

    static void answer(String check, String outcome, String reason, long ms) {
        synchronized (ANSWERS) {
            ANSWERS.println("{\"check\":" + quoted(check) + ",\"outcome\":" + quoted(outcome)
                + ",\"reason\":" + quoted(reason) + ",\"ms\":" + ms + "}");
            ANSWERS.flush();
        }
    }

    private static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < ' ') {
                out.append(' ');
            } else {
                out.append(c);
            }
        }
        return out.append('"').toString();
    }
}
