// What happens to connections: the broker is restarted, all of it is TLS.
package dev.gantry.compat;

import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;

final class Connections {
    private static final int COUNT = 10;
    private static final int RESTART_SECONDS_MAX = 90;

    private Connections() {
    }

    static void add(Map<String, Compat.Check> checks) {
        checks.put("reconnect", Connections::reconnect);
        checks.put("tls", Connections::tls);
    }

    /** Producer and consumer live on; a send that fails meanwhile is tried again. */
    private static void reconnect(Bench bench) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(bench.group("-producer"));
        bench.started(producer);
        for (Message message : bench.messages(1, COUNT)) {
            producer.send(message);
        }
        producer.setSendMsgTimeout(3_000);
        Got got = bench.consuming(bench.push(bench.group()), "*");
        bench.until("the messages before", 60, () -> got.count() >= COUNT - 1);
        Compat.answer(bench.check, "restart", "", 0);
        Bench.check(Compat.RESTARTED.await(RESTART_SECONDS_MAX, TimeUnit.SECONDS), "no restart");
        for (Message message : bench.messages(COUNT, 2 * COUNT)) {
            bench.until("a send after the restart", 60, () -> {
                try {
                    return producer.send(message).getSendStatus() == SendStatus.SEND_OK;
                } catch (Exception failure) {
                    return false;
                }
            });
        }
        bench.within(60, () -> new TreeSet<>(got.texts()).size() >= 2 * COUNT - 1);
        Bench.same("what was consumed, each once or more",
            new TreeSet<>(bench.wanted(1, 2 * COUNT)), new TreeSet<>(got.texts()));
    }

    /** The servers of this check accept nothing else. */
    private static void tls(Bench bench) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(bench.group("-producer"));
        producer.setUseTLS(!bench.broken);
        bench.started(producer);
        // The first handshake of a fresh JVM may take longer than the client waits.
        Exception[] last = new Exception[1];
        boolean warm = bench.within(60, () -> {
            try {
                producer.fetchPublishMessageQueues(bench.topic);
                return true;
            } catch (Exception failure) {
                last[0] = failure;
                return false;
            }
        });
        Bench.check(warm, "no route through TLS: " + last[0]);
        for (Message message : bench.messages(1, COUNT)) {
            Bench.same("status", SendStatus.SEND_OK, producer.send(message).getSendStatus());
        }
        DefaultMQPushConsumer consumer = bench.push(bench.group());
        consumer.setUseTLS(true);
        Got got = bench.consuming(consumer, "*");
        bench.within(60, () -> got.count() >= COUNT - 1);
        bench.settle();
        Bench.sameSet("what was consumed", bench.wanted(1, COUNT), got.texts());
    }
}
