// Sends messages from several threads and records each acknowledged one. Keys are <prefix>-<n>, bodies
// are pseudo-random from (seed, n), so a message is known by its key alone. A failed send is counted
// and tried again as a new attempt of the same key until the job is stopped: acknowledged means one
// acknowledgement, not one stored copy.
package dev.gantry.e2e;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;

final class Producing {
    private static final AtomicLong INSTANCES = new AtomicLong();

    private final Driver.Fields fields;
    private final DefaultMQProducer producer;
    private final Record.Log log;
    private final int count;
    private final boolean keepTrying;
    private final AtomicLong next = new AtomicLong();
    private final AtomicLong failures = new AtomicLong();
    private final AtomicReference<String> firstFailure = new AtomicReference<>("");
    private final List<Thread> threads = new ArrayList<>();
    private volatile boolean stopped;
    private volatile long lastAcknowledgedMs;

    Producing(Driver.Fields fields) throws Exception {
        this.fields = fields;
        count = fields.number("count", Integer.MAX_VALUE);
        keepTrying = fields.number("keepTrying", 0) == 1;
        log = new Record.Log(fields.text("record"));
        producer = started(fields);
    }

    static DefaultMQProducer started(Driver.Fields fields) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(fields.text("group", "e2e-producer"));
        producer.setNamesrvAddr(fields.text("namesrv"));
        producer.setInstanceName("p" + INSTANCES.incrementAndGet() + "-" + System.nanoTime());
        producer.setVipChannelEnabled(fields.number("vip", 0) == 1);
        producer.setUseTLS(fields.number("tls", 0) == 1);
        producer.setDefaultTopicQueueNums(fields.number("queues", 4));
        producer.setSendMsgTimeout(fields.number("timeoutMs", 10_000));
        producer.setRetryTimesWhenSendFailed(fields.number("retries", 2));
        producer.setMaxMessageSize(fields.number("clientBytesMax", 4 * 1024 * 1024));
        producer.setCompressMsgBodyOverHowmuch(fields.number("compressOver", 4096));
        producer.start();
        return producer;
    }

    void start() {
        for (int i = 0; i < fields.number("threads", 4); i++) {
            Thread thread = new Thread(this::sendAll, "sender-" + i);
            threads.add(thread);
            thread.start();
        }
    }

    void stop() {
        stopped = true;
    }

    String join() throws Exception {
        for (Thread thread : threads) {
            thread.join();
        }
        producer.shutdown();
        log.close();
        return state();
    }

    String state() throws Exception {
        if (!stopped && threads.stream().anyMatch(Thread::isAlive)) {
            log.flush();
        }
        return "acknowledged=" + log.lines() + "\tfailures=" + failures.get()
            + "\tlastAcknowledgedMs=" + lastAcknowledgedMs + "\tfirstFailure=" + firstFailure.get();
    }

    private void sendAll() {
        for (long n = next.getAndIncrement(); n < count && !stopped; n = next.getAndIncrement()) {
            Message message = message(fields, n);
            while (!stopped) {
                if (send(message) || !keepTrying) {
                    break;
                }
            }
        }
    }

    private boolean send(Message message) {
        try {
            SendResult result = producer.send(message);
            if (result.getSendStatus() != SendStatus.SEND_OK) {
                throw new IllegalStateException("status " + result.getSendStatus());
            }
            lastAcknowledgedMs = System.currentTimeMillis();
            log.write(Record.sent(message, result));
            return true;
        } catch (Exception failure) {
            failures.incrementAndGet();
            firstFailure.compareAndSet("", message.getKeys() + ": "
                + Driver.describe(failure).replace('\t', ' '));
            return false;
        }
    }

    static Message message(Driver.Fields fields, long n) {
        byte[] body = new byte[fields.number("bodyBytes", 100)];
        new Random(Long.parseLong(fields.text("seed", "1")) * 1_000_003 + n).nextBytes(body);
        List<String> tags = fields.list("tags");
        String tag = tags.isEmpty() ? "TagA" : tags.get((int) (n % tags.size()));
        Message message = new Message(fields.text("topic"), tag, fields.text("prefix") + "-" + n, body);
        if (fields.number("numbered", 0) == 1) {
            message.putUserProperty("number", Long.toString(n));
            message.putUserProperty("parity", n % 2 == 0 ? "even" : "odd");
        }
        if (fields.number("propertyBytes", 0) > 0) {
            message.putUserProperty("filler", filler(fields.number("propertyBytes", 0)));
        }
        return message;
    }

    private static String filler(int bytes) {
        byte[] filler = new byte[bytes];
        java.util.Arrays.fill(filler, (byte) 'x');
        return new String(filler, StandardCharsets.US_ASCII);
    }

    /** One send by a producer of its own; what goes wrong is the answer. */
    static String sendOne(Driver.Fields fields) throws Exception {
        DefaultMQProducer producer = started(fields);
        try {
            Message message = message(fields, 0);
            SendResult result = producer.send(message);
            return "status=" + result.getSendStatus() + "\trecord="
                + Record.sent(message, result).replace('\t', ' ');
        } finally {
            producer.shutdown();
        }
    }
}
