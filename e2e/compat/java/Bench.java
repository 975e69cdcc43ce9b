// What one run of a check works with: its topic, clients that are closed at its end, messages whose
// content is known by their number, and comparisons. A broken run takes the check's precondition
// away: each check says how, by default message 0 is sent with another body than expected.
package dev.gantry.compat;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

final class Bench {
    /** What was seen is not what must be seen. */
    static final class Differs extends Exception {
        Differs(String words) {
            super(words);
        }
    }

    interface Steps {
        void run() throws Exception;
    }

    private static final AtomicInteger INSTANCES = new AtomicInteger();
    private static final int BROKEN_SECONDS_MAX = 10;
    private static final ConcurrentHashMap<String, DefaultMQProducer> PRODUCERS =
        new ConcurrentHashMap<>();
    private static final ConcurrentHashMap<String, DefaultMQPullConsumer> READERS =
        new ConcurrentHashMap<>();

    final String check;
    final String namesrv;
    final String topic;
    final String broker;
    final int queues;
    final boolean broken;
    private final List<Steps> closing = new ArrayList<>();

    Bench(String[] fields) {
        check = fields[0];
        namesrv = fields[1];
        topic = fields[2];
        broker = fields[3];
        queues = Integer.parseInt(fields[4]);
        broken = fields[5].equals("true");
    }

    void atEnd(Steps steps) {
        synchronized (closing) {
            closing.add(steps);
        }
    }

    void close() {
        synchronized (closing) {
            for (Steps steps : closing) {
                try {
                    steps.run();
                } catch (Exception failure) {
                    failure.printStackTrace();
                }
            }
        }
    }

    // Messages.

    String key(int n) {
        return topic.replaceAll(".*%", "") + "-" + n;
    }

    String body(int n) {
        return "body of " + key(n);
    }

    Message message(int n) {
        return message(topic, n);
    }

    Message message(String topic, int n) {
        String body = broken && n == 0 ? "another body" : body(n);
        Message message =
            new Message(topic, "tag" + n % 3, key(n), body.getBytes(StandardCharsets.UTF_8));
        message.putUserProperty("number", Integer.toString(n));
        return message;
    }

    List<Message> messages(int from, int to) {
        List<Message> messages = new ArrayList<>();
        for (int n = from; n < to; n++) {
            messages.add(message(n));
        }
        return messages;
    }

    static String text(Message message) {
        return message.getKeys() + " " + message.getTags() + " " + message.getProperty("number")
            + " " + new String(message.getBody(), StandardCharsets.UTF_8);
    }

    String wanted(int n) {
        return key(n) + " tag" + n % 3 + " " + n + " " + body(n);
    }

    List<String> wanted(int from, int to) {
        List<String> wanted = new ArrayList<>();
        for (int n = from; n < to; n++) {
            wanted.add(wanted(n));
        }
        return wanted;
    }

    // Clients.

    <C extends ClientConfig> C at(C client) {
        client.setNamesrvAddr(namesrv);
        client.setInstanceName(check + "-" + INSTANCES.incrementAndGet() + "-" + System.nanoTime());
        client.setVipChannelEnabled(false);
        return client;
    }

    /** The producer that checks at one name server share. */
    DefaultMQProducer producer() throws Exception {
        synchronized (PRODUCERS) {
            DefaultMQProducer producer = PRODUCERS.get(namesrv);
            if (producer == null) {
                producer = at(new DefaultMQProducer("compat-producer"));
                producer.setSendMsgTimeout(10_000);
                producer.start();
                PRODUCERS.put(namesrv, producer);
            }
            return producer;
        }
    }

    DefaultMQProducer started(DefaultMQProducer producer) throws Exception {
        producer.setSendMsgTimeout(20_000); // a cold JVM is slow
        at(producer).start();
        atEnd(producer::shutdown);
        return producer;
    }

    SendResult send(Message message) throws Exception {
        SendResult result = producer().send(message);
        same("status of " + message.getKeys(), SendStatus.SEND_OK, result.getSendStatus());
        return result;
    }

    void send(int from, int to) throws Exception {
        for (Message message : messages(from, to)) {
            send(message);
        }
    }

    String group() {
        return group("");
    }

    String group(String more) {
        return "g-" + topic.replaceAll(".*%", "") + more;
    }

    DefaultMQPushConsumer push(String group) throws Exception {
        DefaultMQPushConsumer consumer = at(new DefaultMQPushConsumer(group));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        return consumer;
    }

    DefaultMQPushConsumer started(DefaultMQPushConsumer consumer) throws Exception {
        consumer.start();
        atEnd(consumer::shutdown);
        return consumer;
    }

    /** A new consumer, started, with what it gets. */
    Got consuming(DefaultMQPushConsumer consumer, String tags) throws Exception {
        Got got = new Got();
        consumer.subscribe(topic, tags);
        consumer.registerMessageListener(got.concurrently());
        started(consumer);
        return got;
    }

    DefaultLitePullConsumer lite() throws Exception {
        DefaultLitePullConsumer consumer = at(new DefaultLitePullConsumer(group()));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setAutoCommit(false);
        atEnd(consumer::shutdown);
        return consumer;
    }

    DefaultMQPullConsumer reader() throws Exception {
        synchronized (READERS) {
            DefaultMQPullConsumer reader = READERS.get(namesrv);
            if (reader == null) {
                reader = at(new DefaultMQPullConsumer("compat-reader"));
                reader.start();
                READERS.put(namesrv, reader);
            }
            return reader;
        }
    }

    MessageQueue queue(int id) {
        return new MessageQueue(topic, broker, id);
    }

    /** What lies at one offset of one queue. */
    MessageExt at(MessageQueue queue, long offset) throws Exception {
        PullResult[] result = new PullResult[1];
        DefaultMQPullConsumer reader = reader();
        until("a message at " + offset + " of " + queue, 10, () -> {
            result[0] = reader.pull(queue, "*", offset, 1);
            return result[0].getPullStatus() == PullStatus.FOUND;
        });
        MessageExt found = result[0].getMsgFoundList().get(0);
        same("offset of what lies there", offset, found.getQueueOffset());
        return found;
    }

    /** Waits until so many messages of the first queues can be read: Java's index follows its log. */
    void readable(int queues, long wanted) throws Exception {
        DefaultMQPullConsumer reader = reader();
        until("messages that can be read", 60, () -> {
            long readable = 0;
            for (int queue = 0; queue < queues; queue++) {
                readable += reader.maxOffset(queue(queue));
            }
            return readable >= wanted;
        });
    }

    /** Everything in the topic's queues, read by position. */
    List<MessageExt> readAll(Iterable<MessageQueue> queues) throws Exception {
        List<MessageExt> all = new ArrayList<>();
        DefaultMQPullConsumer reader = reader();
        for (MessageQueue queue : queues) {
            long offset = reader.minOffset(queue);
            long max = reader.maxOffset(queue);
            while (offset < max) {
                PullResult result = reader.pull(queue, "*", offset, 32);
                if (result.getPullStatus() == PullStatus.FOUND) {
                    all.addAll(result.getMsgFoundList());
                }
                if (result.getNextBeginOffset() <= offset) {
                    break;
                }
                offset = result.getNextBeginOffset();
            }
        }
        return all;
    }

    List<MessageQueue> queues() {
        List<MessageQueue> list = new ArrayList<>();
        for (int id = 0; id < queues; id++) {
            list.add(queue(id));
        }
        return list;
    }

    // Comparisons.

    static void same(String what, Object wanted, Object got) throws Differs {
        if (!Objects.equals(wanted, got)) {
            throw new Differs(what + ": wanted " + brief(wanted) + ", got " + brief(got));
        }
    }

    /** The same messages, each as often, in any order. */
    static void sameSet(String what, List<String> wanted, List<String> got) throws Differs {
        TreeMap<String, Integer> count = new TreeMap<>();
        wanted.forEach(text -> count.merge(text, 1, Integer::sum));
        got.forEach(text -> count.merge(text, -1, Integer::sum));
        count.values().removeIf(times -> times == 0);
        if (!count.isEmpty()) {
            throw new Differs(what + ": missing (+) or too many (-): " + brief(count));
        }
    }

    static void check(boolean holds, String otherwise) throws Differs {
        if (!holds) {
            throw new Differs(otherwise);
        }
    }

    private static String brief(Object value) {
        String text = String.valueOf(value);
        return text.length() <= 300 ? text : text.substring(0, 300) + "...";
    }

    /** Waits for a condition; without it the deadline ends the check. */
    void until(String what, int seconds, Callable<Boolean> condition) throws Exception {
        check(within(seconds, condition), what + ": not within " + seconds(seconds) + " s");
    }

    boolean within(int seconds, Callable<Boolean> condition) throws Exception {
        long deadline = System.currentTimeMillis() + seconds(seconds) * 1000L;
        while (!condition.call()) {
            if (System.currentTimeMillis() > deadline) {
                return false;
            }
            Thread.sleep(50);
        }
        return true;
    }

    /** Nothing comes within a second or two that should not: what a check of absence waits. */
    void settle() throws Exception {
        Thread.sleep(1_500);
    }

    private int seconds(int seconds) {
        return broken ? Math.min(seconds, BROKEN_SECONDS_MAX) : seconds;
    }
}
