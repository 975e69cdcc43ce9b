// The client of 5.5 consumes by pop: push consumers whose queues the broker shares out, and single
// calls of the client's own API, which make and return receipts. Driven like Driver.java, in a JVM of
// its own, since older clients have none of it.
package dev.gantry.e2e;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.AckCallback;
import org.apache.rocketmq.client.consumer.AckResult;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PopCallback;
import org.apache.rocketmq.client.consumer.PopResult;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.remoting.protocol.header.AckMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ChangeInvisibleTimeRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ExtraInfoUtil;
import org.apache.rocketmq.remoting.protocol.header.PopMessageRequestHeader;

public final class Popping {
    private static final int CALL_MS_MAX = 10_000;

    private final Map<String, Pushed> pushed = new LinkedHashMap<>();
    private DefaultMQProducer client;

    public static void main(String[] args) throws Exception {
        PrintStream answers = System.out;
        System.setOut(System.err);
        Popping popping = new Popping();
        BufferedReader commands =
            new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        answers.println("ok\tready=true");
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            answers.println(popping.answer(line));
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    private String answer(String line) {
        Driver.Fields fields = Driver.Fields.parse(line);
        try {
            return "ok\t" + run(fields);
        } catch (Throwable failure) {
            return "error\t" + Driver.describe(failure);
        }
    }

    private String run(Driver.Fields fields) throws Exception {
        switch (fields.verb) {
            case "pop-start":
                pushed.put(fields.text("id"), new Pushed(fields));
                return "started=true";
            case "pop-wait":
                return pushed.get(fields.text("id")).await(fields);
            case "pop-stop":
                return pushed.remove(fields.text("id")).stop();
            case "pop":
                return pop(fields);
            case "ack":
                return acknowledge(fields);
            case "change":
                return change(fields);
            default:
                throw new IllegalArgumentException(fields.verb);
        }
    }

    private MQClientAPIImpl api(Driver.Fields fields) throws Exception {
        if (client == null) {
            client = Producing.started(fields);
        }
        return client.getDefaultMQProducerImpl().getMqClientFactory().getMQClientAPIImpl();
    }

    /** One call: what was found, message by message. */
    private String pop(Driver.Fields fields) throws Exception {
        PopMessageRequestHeader header = new PopMessageRequestHeader();
        header.setConsumerGroup(fields.text("group"));
        header.setTopic(fields.text("topic"));
        header.setQueueId(fields.number("queue", -1));
        header.setMaxMsgNums(fields.number("max", 32));
        header.setInvisibleTime(fields.number("invisibleMs", 60_000));
        header.setPollTime(fields.number("pollMs", 0));
        header.setBornTime(System.currentTimeMillis());
        header.setInitMode(0);
        header.setExpType("TAG");
        header.setExp(fields.text("tags", "*"));
        header.setOrder(fields.number("order", 0) == 1);
        header.setAttemptId(fields.text("attempt", "a" + System.nanoTime()));
        CompletableFuture<PopResult> result = new CompletableFuture<>();
        int within = fields.number("pollMs", 0) + CALL_MS_MAX;
        api(fields).popMessageAsync(fields.text("broker"), fields.text("address"), header, within,
            new PopCallback() {
                @Override
                public void onSuccess(PopResult popped) {
                    result.complete(popped);
                }

                @Override
                public void onException(Throwable failure) {
                    result.completeExceptionally(failure);
                }
            });
        PopResult popped = result.get(within, TimeUnit.MILLISECONDS);
        List<MessageExt> found = popped.getMsgFoundList();
        List<String> keys = new ArrayList<>();
        List<String> times = new ArrayList<>();
        List<String> receipts = new ArrayList<>();
        for (MessageExt message : found == null ? new ArrayList<MessageExt>() : found) {
            keys.add(message.getKeys());
            times.add(String.valueOf(message.getReconsumeTimes()));
            receipts.add(message.getProperty(MessageConst.PROPERTY_POP_CK));
        }
        return "status=" + popped.getPopStatus() + "\tkeys=" + String.join(",", keys) + "\ttimes="
            + String.join(",", times) + "\treceipts=" + String.join(",", receipts);
    }

    /** By one receipt, or by several at once. */
    private String acknowledge(Driver.Fields fields) throws Exception {
        String[] receipts = fields.text("receipts").split(",");
        Answered answered = new Answered();
        String address = fields.text("address");
        if (receipts.length > 1) {
            api(fields).batchAckMessageAsync(address, CALL_MS_MAX, answered, fields.text("topic"),
                fields.text("group"), Arrays.asList(receipts));
        } else {
            String[] parts = ExtraInfoUtil.split(receipts[0]);
            AckMessageRequestHeader header = new AckMessageRequestHeader();
            header.setConsumerGroup(fields.text("group"));
            header.setTopic(
                ExtraInfoUtil.getRealTopic(parts, fields.text("topic"), fields.text("group")));
            header.setQueueId(ExtraInfoUtil.getQueueId(parts));
            header.setOffset(ExtraInfoUtil.getQueueOffset(parts));
            header.setExtraInfo(receipts[0]);
            api(fields).ackMessageAsync(address, CALL_MS_MAX, answered, header);
        }
        return answered.get();
    }

    private String change(Driver.Fields fields) throws Exception {
        String receipt = fields.text("receipts");
        String[] parts = ExtraInfoUtil.split(receipt);
        ChangeInvisibleTimeRequestHeader header = new ChangeInvisibleTimeRequestHeader();
        header.setConsumerGroup(fields.text("group"));
        header.setTopic(
            ExtraInfoUtil.getRealTopic(parts, fields.text("topic"), fields.text("group")));
        header.setQueueId(ExtraInfoUtil.getQueueId(parts));
        header.setOffset(ExtraInfoUtil.getQueueOffset(parts));
        header.setExtraInfo(receipt);
        header.setInvisibleTime((long) fields.number("invisibleMs", 60_000));
        Answered answered = new Answered();
        api(fields).changeInvisibleTimeAsync(
            fields.text("broker"), fields.text("address"), header, CALL_MS_MAX, answered);
        return answered.get();
    }

    private static final class Answered implements AckCallback {
        private final CompletableFuture<AckResult> result = new CompletableFuture<>();

        @Override
        public void onSuccess(AckResult acknowledged) {
            result.complete(acknowledged);
        }

        @Override
        public void onException(Throwable failure) {
            result.completeExceptionally(failure);
        }

        String get() throws Exception {
            AckResult answer = result.get(CALL_MS_MAX, TimeUnit.MILLISECONDS);
            return "status=" + answer.getStatus() + "\treceipts=" + answer.getExtraInfo();
        }
    }

    /** A push consumer that fails, or sleeps over, its first deliveries. */
    private static final class Pushed {
        private final DefaultMQPushConsumer consumer;
        private final List<String> keys = new ArrayList<>();
        private final List<String> times = new ArrayList<>();
        private final List<String> arrivedMs = new ArrayList<>();

        Pushed(Driver.Fields fields) throws Exception {
            consumer = new DefaultMQPushConsumer(fields.text("group"));
            consumer.setNamesrvAddr(fields.text("namesrv"));
            consumer.setInstanceName("p" + System.nanoTime());
            consumer.setVipChannelEnabled(false);
            consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
            consumer.setClientRebalance(false);
            consumer.setPopInvisibleTime(fields.number("invisibleMs", 60_000));
            consumer.setAwaitTerminationMillisWhenShutdown(10_000);
            consumer.subscribe(fields.text("topic"), fields.text("tags", "*"));
            int failures = fields.number("failures", 0);
            int asleep = fields.number("asleep", 0);
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                int delivered = 0;
                for (MessageExt message : messages) {
                    delivered = arrived(message);
                }
                if (delivered <= asleep) {
                    sleep(fields.number("sleepMs", 0));
                }
                return delivered <= failures ? ConsumeConcurrentlyStatus.RECONSUME_LATER
                    : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            consumer.start();
        }

        private static void sleep(int ms) {
            try {
                Thread.sleep(ms);
            } catch (InterruptedException stopped) {
                Thread.currentThread().interrupt();
            }
        }

        private synchronized int arrived(MessageExt message) {
            keys.add(message.getKeys());
            times.add(String.valueOf(message.getReconsumeTimes()));
            arrivedMs.add(String.valueOf(System.currentTimeMillis()));
            notifyAll();
            return keys.size();
        }

        synchronized String await(Driver.Fields fields) throws Exception {
            long deadline = System.currentTimeMillis() + fields.number("timeoutMs", 60_000);
            while (keys.size() < fields.number("deliveries", 1)
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
            return "keys=" + String.join(",", keys) + "\ttimes=" + String.join(",", times)
                + "\tarrivedMs=" + String.join(",", arrivedMs);
        }
    }
}
