package dev.gantry.examples;

import java.nio.charset.StandardCharsets;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;

/** Sends a message with the official client and waits until its consumer has received it. */
public final class Quickstart {
    public static void main(String[] args) throws Exception {
        String nameServer = args.length > 0 ? args[0] : "127.0.0.1:9876";
        String topic = args.length > 1 ? args[1] : "quickstart";
        String key = UUID.randomUUID().toString();

        DefaultMQProducer producer = new DefaultMQProducer("quickstart-producers");
        producer.setNamesrvAddr(nameServer);
        producer.start();
        byte[] body = "hello from Java".getBytes(StandardCharsets.UTF_8);
        SendResult sent = producer.send(new Message(topic, "TagA", key, body));
        System.out.println("sent " + sent.getOffsetMsgId() + " to " + sent.getMessageQueue());

        CountDownLatch received = new CountDownLatch(1);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("quickstart-consumers");
        consumer.setNamesrvAddr(nameServer);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.stream().filter(message -> key.equals(message.getKeys())).forEach(message -> {
                System.out.println("received " + new String(message.getBody(), StandardCharsets.UTF_8));
                received.countDown();
            });
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        boolean done = received.await(60, TimeUnit.SECONDS);
        consumer.shutdown();
        producer.shutdown();
        if (!done) {
            System.err.println("the message did not come back within 60 s");
        }
        System.exit(done ? 0 : 1);
    }
}
