// Asks the official evaluator of SQL92 filters: each line of the input is an expression and a
// message's properties, each line of the output what becomes of them.
package dev.gantry.e2e;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import org.apache.rocketmq.filter.expression.EvaluationContext;
import org.apache.rocketmq.filter.expression.Expression;
import org.apache.rocketmq.filter.expression.MQFilterException;
import org.apache.rocketmq.filter.parser.SelectorParser;

public final class Expressions {
    private Expressions() {
    }

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, true, "UTF-8");
        BufferedReader in =
            new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] cells = line.split("\t", -1);
            out.println(outcome(cells[0], cells[1]));
        }
    }

    private static String outcome(String text, String properties) {
        Expression expression;
        try {
            expression = SelectorParser.parse(text);
        } catch (MQFilterException bad) {
            return "bad";
        }
        Map<String, Object> values = new HashMap<>();
        for (String property : properties.split(";")) {
            int equals = property.indexOf('=');
            if (equals > 0) {
                values.put(property.substring(0, equals), property.substring(equals + 1));
            }
        }
        try {
            return String.valueOf(expression.evaluate(new EvaluationContext() {
                @Override
                public Object get(String name) {
                    return values.get(name);
                }

                @Override
                public Map<String, Object> keyValues() {
                    return values;
                }
            }));
        } catch (Throwable unfit) {
            return "error";
        }
    }
}
