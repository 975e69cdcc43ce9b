// Request and reply: a consumer answers what a producer asks and waits for. Two more clients of the same
// process do both, so that the answer has to find the one that waits.
package dev.gantry.e2e;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

final class Requesting {
    private final Driver.Fields fields;
    private final String topic;

    private Requesting(Driver.Fields fields) {
        this.fields = fields;
        topic = fields.text("topic");
    }

    /** The answers, what became of one that nobody waits for, and how many answers are stored. */
    static String ask(Driver.Fields fields) throws Exception {
        return new Requesting(fields).run();
    }

    private String run() throws Exception {
        DefaultMQProducer answering = Producing.started(fields);
        DefaultMQProducer asking = Producing.started(fields);
        DefaultMQProducer idle = Producing.started(fields);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(fields.text("group"));
        try {
            consumer.setNamesrvAddr(fields.text("namesrv"));
            consumer.setInstanceName("r" + System.nanoTime());
            consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            consumer.subscribe(topic, "*");
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                for (MessageExt message : messages) {
                    answer(answering, message);
                }
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            // A consumer learns of a topic that is made later only after a while.
            idle.send(new Message(topic, bytes("nobody waits for an answer to this")));
            consumer.start();
            long before = stored(answering);
            List<String> answers = new ArrayList<>();
            for (int i = 0; i < fields.number("count", 1); i++) {
                Message question = new Message(topic, bytes("question " + i));
                answers.add(text(asking.request(question, 60_000)));
            }
            String lost = lost(answering);
            // Java's index follows its log a little later.
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(10);
            long stored = stored(answering) - before;
            while (stored < fields.number("stored", 0) && System.nanoTime() < deadline) {
                stored = stored(answering) - before;
            }
            return "answers=" + String.join(",", answers) + "\tlost=" + lost + "\tstored=" + stored;
        } finally {
            consumer.shutdown();
            answering.shutdown();
            asking.shutdown();
            idle.shutdown();
        }
    }

    private static void answer(DefaultMQProducer producer, MessageExt message) {
        if (message.getProperty(MessageConst.PROPERTY_MESSAGE_REPLY_TO_CLIENT) == null) {
            return;
        }
        try {
            producer.send(MessageUtil.createReplyMessage(message, bytes("re: " + text(message))));
        } catch (Exception failure) {
            throw new IllegalStateException(failure);
        }
    }

    /** An answer to a client that is not there. */
    private String lost(DefaultMQProducer producer) throws Exception {
        Message reply = new Message(replies(), bytes("too late"));
        MessageAccessor.putProperty(reply, MessageConst.PROPERTY_MESSAGE_TYPE, "reply");
        MessageAccessor.putProperty(
            reply, MessageConst.PROPERTY_MESSAGE_REPLY_TO_CLIENT, "nobody");
        try {
            return producer.send(reply).getSendStatus().name();
        } catch (Exception failure) {
            return Driver.describe(failure).replace('\t', ' ').replace('\n', ' ');
        }
    }

    private long stored(DefaultMQProducer producer) throws Exception {
        long stored = 0;
        for (MessageQueue queue : producer.fetchPublishMessageQueues(replies())) {
            stored += producer.maxOffset(queue);
        }
        return stored;
    }

    private String replies() {
        return fields.text("cluster") + "_REPLY_TOPIC";
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(Message message) {
        return new String(message.getBody(), StandardCharsets.UTF_8);
    }
}
