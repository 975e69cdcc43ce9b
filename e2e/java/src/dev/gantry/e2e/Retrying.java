// A push consumer whose listener fails the first deliveries, and remembers what each of them said.
package dev.gantry.e2e;

import java.util.ArrayList;
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

final class Retrying {
    private final DefaultMQPushConsumer consumer;
    private final List<Integer> times = new ArrayList<>();
    private final List<String> topics = new ArrayList<>();
    private final List<String> ids = new ArrayList<>();

    Retrying(Driver.Fields fields) throws Exception {
        consumer = new DefaultMQPushConsumer(fields.text("group"));
        consumer.setNamesrvAddr(fields.text("namesrv"));
        consumer.setInstanceName("t" + System.nanoTime());
        consumer.setVipChannelEnabled(false);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setMaxReconsumeTimes(fields.number("max", -1));
        Consuming.subscribe(consumer, fields);
        int failures = fields.number("failures", 0);
        if (fields.number("orderly", 0) > 0) {
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                context.setSuspendCurrentQueueTimeMillis(100);
                return fails(messages, failures)
                    ? ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT
                    : ConsumeOrderlyStatus.SUCCESS;
            });
            consumer.start();
            return;
        }
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            context.setDelayLevelWhenNextConsume(fields.number("level", 0));
            return fails(messages, failures) ? ConsumeConcurrentlyStatus.RECONSUME_LATER
                : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
    }

    private boolean fails(List<MessageExt> messages, int failures) {
        boolean fails = false;
        for (MessageExt message : messages) {
            fails |= delivered(message) <= failures;
        }
        return fails;
    }

    private synchronized int delivered(MessageExt message) {
        times.add(message.getReconsumeTimes());
        topics.add(message.getTopic());
        ids.add(message.getMsgId());
        notifyAll();
        return times.size();
    }

    synchronized String await(Driver.Fields fields) throws Exception {
        long deadline = System.currentTimeMillis() + fields.number("timeoutMs", 60_000);
        while (times.size() < fields.number("deliveries", 1)
            && System.currentTimeMillis() < deadline) {
            wait(Math.max(1, deadline - System.currentTimeMillis()));
        }
        return state();
    }

    String stop() {
        consumer.shutdown();
        return state();
    }

    private synchronized String state() {
        return "times=" + Sending.join(times) + "\ttopics=" + Sending.join(topics) + "\tids="
            + Sending.join(ids);
    }
}
