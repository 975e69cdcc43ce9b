// One long-lived JVM that runs mqadmin's commands: a line in is a command's arguments, separated by
// U+0001; a line out is "ok" and what the command printed, as a field whose newlines, tabs and
// backslashes are escaped. Ends with its input.
package dev.gantry.e2e;

import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.util.List;
import org.apache.rocketmq.remoting.RPCHook;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;
import org.apache.rocketmq.tools.command.MQAdminStartup;

public final class Admin {
    private Admin() {
    }

    public static void main(String[] args) throws Exception {
        PrintStream answers = System.out;
        PrintStream log = System.err;
        System.setOut(log);
        BufferedReader lines =
            new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        answers.println("ok\tready=true");
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            ByteArrayOutputStream printed = new ByteArrayOutputStream();
            PrintStream capture = new PrintStream(printed, true, "UTF-8");
            System.setOut(capture);
            System.setErr(capture);
            forgetCommands();
            MQAdminStartup.main0(line.split("\u0001"), new NoHook());
            capture.flush();
            System.setOut(log);
            System.setErr(log);
            answers.println("ok\tout=" + escape(printed.toString("UTF-8")));
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    /** A command object keeps the client of its last run, which is shut down by then. */
    private static void forgetCommands() throws Exception {
        Field commands = MQAdminStartup.class.getDeclaredField("SUB_COMMANDS");
        commands.setAccessible(true);
        ((List<?>) commands.get(null)).clear();
    }

    private static String escape(String text) {
        return text.replace("\\", "\\\\").replace("\r", "").replace("\n", "\\n").replace("\t", "\\t");
    }

    /** Without a hook mqadmin looks for a file of credentials. */
    private static final class NoHook implements RPCHook {
        @Override
        public void doBeforeRequest(String address, RemotingCommand request) {
        }

        @Override
        public void doAfterResponse(String address, RemotingCommand request,
            RemotingCommand response) {
        }
    }
}
