// Makes the official client send one of every request that Gantry answers, through a recording proxy.
// Arguments: name server address, broker address. It ends when everything was answered once.
package dev.gantry.e2e;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.protocol.ResponseCode;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

public final class Capture {
    private static final String TOPIC = "golden";
    private static final String GROUP = "golden-consumers";
    private static final int PROPERTIES_CHARS_MAX = 32_767;

    private final String nameServer;
    private final String broker;

    private Capture(String nameServer, String broker) {
        this.nameServer = nameServer;
        this.broker = broker;
    }

    public static void main(String[] args) throws Exception {
        int status = 1;
        try {
            Capture capture = new Capture(args[0], args[1]);
            capture.administer();
            List<MessageQueue> queues = capture.produce();
            capture.pull(queues.get(0));
            capture.push();
            status = 0;
        } catch (Throwable failure) {
            failure.printStackTrace();
        }
        Runtime.getRuntime().halt(status); // the clients' threads would outlive a failure
    }

    private void administer() throws Exception {
        DefaultMQAdminExt admin = new DefaultMQAdminExt();
        admin.setNamesrvAddr(nameServer);
        admin.setInstanceName("golden-admin");
        admin.setVipChannelEnabled(false);
        admin.start();
        admin.createAndUpdateTopicConfig(broker, new TopicConfig(TOPIC, 2, 2));
        SubscriptionGroupConfig group = new SubscriptionGroupConfig();
        group.setGroupName(GROUP);
        admin.createAndUpdateSubscriptionGroupConfig(broker, group);
        admin.examineBrokerClusterInfo();
        admin.fetchBrokerRuntimeStats(broker);
        admin.examineTopicRouteInfo(TOPIC);
        try {
            admin.examineTopicRouteInfo("golden-absent");
        } catch (Exception expected) {
            System.err.println("absent topic: " + expected.getMessage());
        }
        admin.shutdown();
    }

    private List<MessageQueue> produce() throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("golden-producers");
        producer.setNamesrvAddr(nameServer);
        producer.setInstanceName("golden-producer");
        producer.setVipChannelEnabled(false);
        producer.setSendMsgTimeout(10_000);
        producer.start();
        List<MessageQueue> queues = producer.fetchPublishMessageQueues(TOPIC);
        Collections.sort(queues);
        producer.send(new Message(TOPIC, "TagA", "key-1", bytes("hello")), queues.get(0));
        producer.send(Arrays.asList(new Message(TOPIC, "TagB", "key-2", bytes("two")),
            new Message(TOPIC, "TagB", "key-3", bytes("three"))), queues.get(0));
        sendLargest(producer, queues.get(1));
        producer.shutdown();
        return queues;
    }

    /** The most properties the broker accepts: it adds some of its own before it counts. */
    private static void sendLargest(DefaultMQProducer producer, MessageQueue queue) throws Exception {
        for (int chars = PROPERTIES_CHARS_MAX; ; chars--) {
            byte[] filler = new byte[chars];
            Arrays.fill(filler, (byte) 'x');
            Message message = new Message(TOPIC, "", "", bytes("b"));
            message.putUserProperty("filler", new String(filler, StandardCharsets.US_ASCII));
            try {
                producer.send(message, queue);
                System.err.println("largest filler: " + chars + " of properties "
                    + MessageDecoder.messageProperties2String(message.getProperties()).length());
                return;
            } catch (MQBrokerException tooLarge) {
                if (tooLarge.getResponseCode() != ResponseCode.MESSAGE_ILLEGAL) {
                    throw tooLarge;
                }
            }
        }
    }

    private void pull(MessageQueue queue) throws Exception {
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer(GROUP);
        consumer.setNamesrvAddr(nameServer);
        consumer.setInstanceName("golden-puller");
        consumer.setVipChannelEnabled(false);
        consumer.start();
        long max = consumer.maxOffset(queue);
        consumer.minOffset(queue);
        consumer.searchOffset(queue, System.currentTimeMillis() - 3_600_000);
        consumer.fetchConsumeOffset(queue, true);
        System.err.println("found: " + consumer.pull(queue, "*", 0, 32));
        System.err.println("not found: " + consumer.pull(queue, "*", max, 32));
        System.err.println("moved: " + consumer.pull(queue, "*", max + 1_000, 32));
        consumer.updateConsumeOffset(queue, 1);
        consumer.getOffsetStore().persist(queue);
        consumer.shutdown();
        DefaultMQPullConsumer again = new DefaultMQPullConsumer(GROUP);
        again.setNamesrvAddr(nameServer);
        again.setInstanceName("golden-puller-again");
        again.setVipChannelEnabled(false);
        again.start();
        again.fetchSubscribeMessageQueues(TOPIC);
        again.fetchConsumeOffset(queue, true);
        again.shutdown();
    }

    private void push() throws Exception {
        CountDownLatch arrived = new CountDownLatch(3);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(GROUP + "-push");
        consumer.setNamesrvAddr(nameServer);
        consumer.setInstanceName("golden-pusher");
        consumer.setVipChannelEnabled(false);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(TOPIC, "TagA || TagB");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(message -> arrived.countDown());
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        arrived.await(20, TimeUnit.SECONDS);
        consumer.shutdown();
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
