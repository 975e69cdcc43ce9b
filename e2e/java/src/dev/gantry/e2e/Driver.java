// One long-lived JVM that drives the official client: a command a line on stdin, an answer a line on
// stdout, both as tab-separated name=value fields (a command begins with its verb, an answer with "ok"
// or "error"). Message lists are too long for a line: they go to files, one Record a line, which the
// harness compares. Compiled against every client version that is tested, so it uses only what they share.
package dev.gantry.e2e;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;

public final class Driver {
    private final Map<String, Producing> producing = new LinkedHashMap<>();
    private final Map<String, Consuming> consuming = new LinkedHashMap<>();
    private final Map<String, Transacting> transacting = new LinkedHashMap<>();

    public static void main(String[] args) throws Exception {
        PrintStream answers = System.out;
        System.setOut(System.err); // log libraries print; the answers must stay clean
        Driver driver = new Driver();
        BufferedReader commands =
            new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        answers.println("ok\tready=true");
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            answers.println(driver.answer(line));
            answers.flush();
        }
        Runtime.getRuntime().halt(0); // the harness is gone: nothing to say goodbye to
    }

    private String answer(String line) {
        Fields fields = Fields.parse(line);
        try {
            return "ok" + run(fields);
        } catch (Throwable failure) {
            return "error\t" + describe(failure);
        }
    }

    private String run(Fields fields) throws Exception {
        switch (fields.verb) {
            case "produce": {
                Producing job = new Producing(fields);
                job.start();
                String result = job.join();
                return "\t" + result;
            }
            case "produce-start": {
                Producing job = new Producing(fields);
                producing.put(fields.text("id"), job);
                job.start();
                return "";
            }
            case "produce-state":
                return "\t" + producing.get(fields.text("id")).state();
            case "produce-stop": {
                Producing job = producing.remove(fields.text("id"));
                job.stop();
                return "\t" + job.join();
            }
            case "send":
                return "\t" + Producing.sendOne(fields);
            case "consume-start":
                consuming.put(fields.text("id"), new Consuming(fields));
                return "";
            case "consume-wait":
                return "\t" + consuming.get(fields.text("id")).await(fields);
            case "consume-stop":
                return "\t" + consuming.remove(fields.text("id")).stop();
            case "transact-start":
                transacting.put(fields.text("id"), new Transacting(fields));
                return "";
            case "transact-send":
                return "\t" + transacting.get(fields.text("id")).send(fields);
            case "transact-asked":
                return "\t" + transacting.get(fields.text("id")).asked();
            case "transact-stop":
                return "\t" + transacting.remove(fields.text("id")).stop();
            case "request":
                return "\t" + Requesting.ask(fields);
            case "read":
                return "\t" + Reading.readAll(fields);
            case "select":
                return "\t" + Selecting.run(fields);
            case "pull":
                return "\t" + Reading.pullOnce(fields);
            case "committed":
                return "\t" + Reading.committed(fields);
            case "fill":
                return "\t" + Migrating.fill(fields);
            case "fail":
                return "\t" + Migrating.fail(fields);
            case "query":
                return "\t" + Migrating.query(fields);
            case "dump":
                return "\t" + Migrating.dump(fields);
            default:
                return "\t" + Sending.run(fields);
        }
    }

    /** What the client threw: its class, the broker's response code if there is one, and its words. */
    static String describe(Throwable failure) {
        int code = 0;
        for (Throwable cause = failure; cause != null; cause = cause.getCause()) {
            if (cause instanceof MQBrokerException) {
                code = ((MQBrokerException) cause).getResponseCode();
            } else if (cause instanceof MQClientException && code == 0) {
                code = Math.max(0, ((MQClientException) cause).getResponseCode());
            }
        }
        String words = String.valueOf(failure.getMessage());
        for (Throwable cause = failure.getCause(); cause != null; cause = cause.getCause()) {
            words += " | " + cause;
        }
        return "class=" + failure.getClass().getSimpleName() + "\tcode=" + code
            + "\tmessage=" + words.replaceAll("\\s+", " ");
    }

    /** A command line: its verb and its fields. */
    static final class Fields {
        final String verb;
        private final Map<String, String> values = new LinkedHashMap<>();

        private Fields(String verb) {
            this.verb = verb;
        }

        static Fields parse(String line) {
            String[] parts = line.split("\t");
            Fields fields = new Fields(parts[0]);
            for (int i = 1; i < parts.length; i++) {
                int equals = parts[i].indexOf('=');
                fields.values.put(parts[i].substring(0, equals), parts[i].substring(equals + 1));
            }
            return fields;
        }

        String text(String name) {
            String value = values.get(name);
            if (value == null) {
                throw new IllegalArgumentException(verb + " needs " + name);
            }
            return value;
        }

        String text(String name, String otherwise) {
            return values.getOrDefault(name, otherwise);
        }

        int number(String name, int otherwise) {
            String value = values.get(name);
            return value == null ? otherwise : Integer.parseInt(value);
        }

        List<String> list(String name) {
            List<String> list = new ArrayList<>();
            for (String item : text(name, "").split(",")) {
                if (!item.isEmpty()) {
                    list.add(item);
                }
            }
            return list;
        }
    }
}
