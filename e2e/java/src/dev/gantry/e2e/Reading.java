// Reads queues by offset, with a consumer that keeps no position of its own: the second reading path,
// and the one that shows what lies at which offset.
package dev.gantry.e2e;

import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

final class Reading {
    private static final AtomicLong INSTANCES = new AtomicLong();
    private static final int BATCH_MESSAGES = 32;

    private Reading() {
    }

    static DefaultMQPullConsumer started(Driver.Fields fields) throws Exception {
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer(fields.text("group", "e2e-reader"));
        consumer.setNamesrvAddr(fields.text("namesrv"));
        consumer.setInstanceName("r" + INSTANCES.incrementAndGet() + "-" + System.nanoTime());
        consumer.setVipChannelEnabled(false);
        consumer.start();
        return consumer;
    }

    /** Every queue of a topic from its minimum to its maximum offset, into a record file. */
    static String readAll(Driver.Fields fields) throws Exception {
        DefaultMQPullConsumer consumer = started(fields);
        List<String> bounds = new ArrayList<>();
        try (Record.Log log = new Record.Log(fields.text("record"))) {
            Set<MessageQueue> queues =
                new TreeSet<>(consumer.fetchSubscribeMessageQueues(fields.text("topic")));
            for (MessageQueue queue : queues) {
                long min = consumer.minOffset(queue);
                long max = consumer.maxOffset(queue);
                bounds.add(queue.getBrokerName() + "/" + queue.getQueueId() + ":" + min + ".." + max);
                read(consumer, queue, min, max, log);
            }
            return "messages=" + log.lines() + "\tbounds=" + String.join(",", bounds);
        } finally {
            consumer.shutdown();
        }
    }

    private static void read(DefaultMQPullConsumer consumer, MessageQueue queue, long min, long max,
        Record.Log log) throws Exception {
        long offset = min;
        while (offset < max) {
            PullResult result = consumer.pull(queue, "*", offset, BATCH_MESSAGES);
            if (result.getPullStatus() != PullStatus.FOUND) {
                throw new IllegalStateException(queue + " at " + offset + " of " + max + ": " + result);
            }
            for (MessageExt message : result.getMsgFoundList()) {
                log.write(Record.received(message));
            }
            offset = result.getNextBeginOffset();
        }
    }

    /** One pull at one offset of one queue, answered with the client's view of it. */
    static String pullOnce(Driver.Fields fields) throws Exception {
        DefaultMQPullConsumer consumer = started(fields);
        try {
            MessageQueue queue = new MessageQueue(fields.text("topic"), fields.text("broker"),
                fields.number("queue", 0));
            consumer.fetchSubscribeMessageQueues(fields.text("topic"));
            PullResult result =
                consumer.pull(queue, fields.text("tags", "*"), fields.number("offset", 0), 32);
            int found = result.getMsgFoundList() == null ? 0 : result.getMsgFoundList().size();
            return "status=" + result.getPullStatus() + "\tnext=" + result.getNextBeginOffset()
                + "\tmin=" + result.getMinOffset() + "\tmax=" + result.getMaxOffset() + "\tfound="
                + found;
        } finally {
            consumer.shutdown();
        }
    }

    /** The offsets a group has committed, queue by queue (-1: none). */
    static String committed(Driver.Fields fields) throws Exception {
        DefaultMQPullConsumer consumer = started(fields);
        try {
            List<String> offsets = new ArrayList<>();
            Set<MessageQueue> queues =
                new TreeSet<>(consumer.fetchSubscribeMessageQueues(fields.text("topic")));
            for (MessageQueue queue : queues) {
                offsets.add(queue.getBrokerName() + "/" + queue.getQueueId() + ":"
                    + consumer.fetchConsumeOffset(queue, true));
            }
            return "offsets=" + String.join(",", offsets);
        } finally {
            consumer.shutdown();
        }
    }
}
