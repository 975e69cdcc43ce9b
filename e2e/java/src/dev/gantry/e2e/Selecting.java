// Consumers that pull what they select by properties: queue by queue, or as LitePull does by itself.
package dev.gantry.e2e;

import java.util.List;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.impl.factory.MQClientInstance;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

final class Selecting {
    private static final int BATCH_MESSAGES = 32;
    /** How long what should not come has time to. */
    private static final long REST_MS = 1_000;

    private Selecting() {
    }

    /** What a topic has of it, into a record file; LitePull is told how many that are. */
    static String run(Driver.Fields fields) throws Exception {
        MessageSelector selector = MessageSelector.bySql(fields.text("sql"));
        try (Record.Log log = new Record.Log(fields.text("record"))) {
            if (fields.text("how").equals("lite")) {
                lite(fields, selector, log);
            } else {
                pull(fields, selector, log);
            }
            return "messages=" + log.lines();
        }
    }

    private static void pull(Driver.Fields fields, MessageSelector selector, Record.Log log)
        throws Exception {
        DefaultMQPullConsumer consumer = Reading.started(fields);
        try {
            String topic = fields.text("topic");
            heartbeat(consumer, topic);
            for (MessageQueue queue : new TreeSet<>(consumer.fetchSubscribeMessageQueues(topic))) {
                long offset = consumer.minOffset(queue);
                long max = consumer.maxOffset(queue);
                while (offset < max) {
                    PullResult result = consumer.pull(queue, selector, offset, BATCH_MESSAGES);
                    if (result.getPullStatus() == PullStatus.FOUND) {
                        write(result.getMsgFoundList(), log);
                    } else if (result.getPullStatus() != PullStatus.NO_MATCHED_MSG) {
                        throw new IllegalStateException(queue + " at " + offset + ": " + result);
                    }
                    offset = result.getNextBeginOffset();
                }
            }
        } finally {
            consumer.shutdown();
        }
    }

    /** The client learns a broker's version by it, and asks no unknown one for properties. */
    private static void heartbeat(DefaultMQPullConsumer consumer, String topic) {
        MQClientInstance client =
            consumer.getDefaultMQPullConsumerImpl().getRebalanceImpl().getmQClientFactory();
        client.updateTopicRouteInfoFromNameServer(topic);
        client.sendHeartbeatToAllBrokerWithLock();
    }

    private static void lite(Driver.Fields fields, MessageSelector selector, Record.Log log)
        throws Exception {
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(fields.text("group"));
        consumer.setNamesrvAddr(fields.text("namesrv"));
        consumer.setInstanceName("l" + System.nanoTime());
        consumer.setVipChannelEnabled(false);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(fields.text("topic"), selector);
        consumer.start();
        try {
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
            while (log.lines() < fields.number("count", 0) && System.nanoTime() < deadline) {
                write(consumer.poll(REST_MS), log);
            }
            write(consumer.poll(REST_MS), log);
        } finally {
            consumer.shutdown();
        }
    }

    private static void write(List<MessageExt> messages, Record.Log log) throws Exception {
        for (MessageExt message : messages) {
            log.write(Record.received(message));
        }
    }
}
