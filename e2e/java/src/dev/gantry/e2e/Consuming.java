// A push consumer that records every delivery in the order of arrival. Waiting is for a number of
// distinct messages (by key), so that redeliveries can neither hide a loss nor count as one.
package dev.gantry.e2e;

import java.util.HashSet;
import java.util.Set;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

final class Consuming {
    private static final AtomicLong INSTANCES = new AtomicLong();

    private final DefaultMQPushConsumer consumer;
    private final Record.Log log;
    private final Set<String> keys = new HashSet<>();
    private long lastArrivalMs;

    Consuming(Driver.Fields fields) throws Exception {
        log = new Record.Log(fields.text("record"));
        consumer = new DefaultMQPushConsumer(fields.text("group"));
        consumer.setNamesrvAddr(fields.text("namesrv"));
        consumer.setInstanceName("c" + INSTANCES.incrementAndGet() + "-" + System.nanoTime());
        consumer.setVipChannelEnabled(fields.number("vip", 0) == 1);
        consumer.setUseTLS(fields.number("tls", 0) == 1);
        consumer.setConsumeFromWhere(fields.text("from", "first").equals("first")
            ? ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
            : ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET);
        consumer.setPersistConsumerOffsetInterval(fields.number("persistMs", 5_000));
        // Shutting down waits for the listener, so that what was recorded is also committed.
        consumer.setAwaitTerminationMillisWhenShutdown(10_000);
        subscribe(consumer, fields);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                arrived(message);
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
    }

    /** By properties or by tags. */
    static void subscribe(DefaultMQPushConsumer consumer, Driver.Fields fields) throws Exception {
        String sql = fields.text("sql", "");
        if (sql.isEmpty()) {
            consumer.subscribe(fields.text("topic"), fields.text("tags", "*"));
        } else {
            consumer.subscribe(fields.text("topic"), MessageSelector.bySql(sql));
        }
    }

    private synchronized void arrived(MessageExt message) {
        try {
            log.write(Record.received(message));
        } catch (java.io.IOException failure) {
            throw new IllegalStateException(failure);
        }
        keys.add(message.getKeys());
        lastArrivalMs = System.currentTimeMillis();
        notifyAll();
    }

    synchronized String await(Driver.Fields fields) throws Exception {
        long wanted = fields.number("distinct", 1);
        long deadline = System.currentTimeMillis() + fields.number("timeoutMs", 60_000);
        while (keys.size() < wanted && System.currentTimeMillis() < deadline) {
            wait(Math.max(1, deadline - System.currentTimeMillis()));
        }
        return state();
    }

    /** Shuts down, which persists the consumed offsets at the broker. */
    String stop() throws Exception {
        consumer.shutdown();
        synchronized (this) {
            log.close();
            return state();
        }
    }

    private String state() throws Exception {
        return "distinct=" + keys.size() + "\tdeliveries=" + log.lines() + "\tlastArrivalMs="
            + lastArrivalMs;
    }
}
