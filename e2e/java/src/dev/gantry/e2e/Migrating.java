// For moving a data directory from one broker to another: messages of every kind, and a dump of all
// that a client can read of a topic, a line a message, so that two brokers can be compared.
package dev.gantry.e2e;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

final class Migrating {
    private Migrating() {
    }

    /** Sends messages with keys, tags and properties: one by one, in batches, or one a delay level. */
    static String fill(Driver.Fields fields) throws Exception {
        DefaultMQProducer producer = Producing.started(fields);
        int count = fields.number("count", 1);
        int levels = fields.number("levels", 0);
        int batch = fields.number("batch", 1);
        try {
            List<Message> waiting = new ArrayList<>();
            for (int n = 0; n < Math.max(count, levels); n++) {
                Message message = Producing.message(fields, n);
                message.setKeys(fields.text("prefix") + "-" + n + " other-" + n);
                message.putUserProperty("n", "" + n);
                message.setFlag(n);
                if (levels > 0) {
                    message.setDelayTimeLevel(n + 1);
                }
                waiting.add(message);
                if (waiting.size() == batch) {
                    SendStatus status = batch == 1 ? producer.send(message).getSendStatus()
                        : producer.send(waiting).getSendStatus();
                    if (status != SendStatus.SEND_OK) {
                        throw new IllegalStateException("status " + status);
                    }
                    waiting.clear();
                }
            }
            return "sent=" + Math.max(count, levels);
        } finally {
            producer.shutdown();
        }
    }

    /** A group that fails to consume: its messages go to its retry or dead-letter topic. */
    static String fail(Driver.Fields fields) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(fields.text("group"));
        consumer.setNamesrvAddr(fields.text("namesrv"));
        consumer.setInstanceName("f" + System.nanoTime());
        consumer.setVipChannelEnabled(false);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setMaxReconsumeTimes(fields.number("maxReconsumeTimes", 16));
        consumer.setAwaitTerminationMillisWhenShutdown(10_000);
        CountDownLatch left = new CountDownLatch(fields.number("count", 1));
        consumer.subscribe(fields.text("topic"), "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            if (messages.get(0).getReconsumeTimes() > 0) {
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            }
            messages.forEach(message -> left.countDown());
            return ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        consumer.start();
        // Longer than two heartbeats: a client that is balanced while its first one is sent pulls
        // only after the next, which follows 30 s later.
        boolean all = left.await(75, TimeUnit.SECONDS);
        consumer.shutdown();
        return "left=" + left.getCount() + "\tall=" + all;
    }

    /** What a client finds by a key. */
    static String query(Driver.Fields fields) throws Exception {
        DefaultMQPullConsumer consumer = Reading.started(fields);
        try {
            consumer.fetchSubscribeMessageQueues(fields.text("topic"));
            int found = consumer.queryMessage(fields.text("topic"), fields.text("key"), 32, 0,
                System.currentTimeMillis() + 60_000).getMessageList().size();
            return "found=" + found;
        } finally {
            consumer.shutdown();
        }
    }

    /** All that can be read of a topic, and each queue's bounds, into a file. */
    static String dump(Driver.Fields fields) throws Exception {
        DefaultMQPullConsumer consumer = Reading.started(fields);
        try (Record.Log log = new Record.Log(fields.text("record"))) {
            Set<MessageQueue> queues =
                new TreeSet<>(consumer.fetchSubscribeMessageQueues(fields.text("topic")));
            long messages = 0;
            for (MessageQueue queue : queues) {
                long min = consumer.minOffset(queue);
                long max = consumer.maxOffset(queue);
                if (max > 0) {
                    log.write("queue " + queue.getQueueId() + " " + min + ".." + max);
                }
                for (long offset = min; offset < max; ) {
                    PullResult result = consumer.pull(queue, "*", offset, 32);
                    if (result.getPullStatus() != PullStatus.FOUND) {
                        throw new IllegalStateException(queue + " at " + offset + ": " + result);
                    }
                    for (MessageExt message : result.getMsgFoundList()) {
                        log.write(line(message));
                        messages++;
                    }
                    offset = result.getNextBeginOffset();
                }
            }
            return "messages=" + messages;
        } finally {
            consumer.shutdown();
        }
    }

    private static String line(MessageExt message) {
        Map<String, String> properties = new TreeMap<>(message.getProperties());
        properties.remove("MIN_OFFSET"); // the client's own
        properties.remove("MAX_OFFSET");
        properties.remove("__CRC32#"); // a broker may be told to write it
        CRC32 body = new CRC32();
        body.update(message.getBody());
        String line = message.getTopic() + " " + message.getQueueId() + " "
            + message.getQueueOffset() + " " + message.getCommitLogOffset() + " "
            + message.getSysFlag() + " " + message.getFlag() + " " + message.getReconsumeTimes()
            + " " + message.getBornTimestamp() + " " + message.getStoreTimestamp() + " "
            + message.getBornHost() + " " + message.getStoreHost() + " " + message.getMsgId() + " "
            + message.getBody().length + " " + body.getValue() + " " + properties;
        return new String(line.getBytes(StandardCharsets.UTF_8), StandardCharsets.UTF_8);
    }
}
