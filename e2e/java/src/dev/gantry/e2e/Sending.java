// The ways to send that Producing does not use, and a look at what became of the messages.
package dev.gantry.e2e;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

final class Sending {
    private static final Map<String, Retrying> RETRYING = new ConcurrentHashMap<>();

    private Sending() {
    }

    static String run(Driver.Fields fields) throws Exception {
        switch (fields.verb) {
            case "send-batch":
            case "send-oneway":
            case "send-selected":
            case "send-compressed":
            case "send-delayed":
                return send(fields);
            case "look":
                return look(fields);
            case "retry-start":
                RETRYING.put(fields.text("id"), new Retrying(fields));
                return "";
            case "retry-wait":
                return RETRYING.get(fields.text("id")).await(fields);
            case "retry-stop":
                return RETRYING.remove(fields.text("id")).stop();
            default:
                throw new IllegalArgumentException("unknown verb " + fields.verb);
        }
    }

    private static String send(Driver.Fields fields) throws Exception {
        // What a later client compresses with; an earlier one knows only zlib.
        System.setProperty("rocketmq.message.compressType", fields.text("compress", "ZLIB"));
        DefaultMQProducer producer = Producing.started(fields);
        try (Record.Log log = new Record.Log(fields.text("record"))) {
            List<Message> messages = new ArrayList<>();
            for (int n = 0; n < fields.number("count", 1); n++) {
                messages.add(Producing.message(fields, n));
            }
            switch (fields.verb) {
                case "send-batch":
                    batch(producer, messages, log);
                    break;
                case "send-oneway":
                    for (Message message : messages) {
                        producer.sendOneway(message);
                    }
                    // On the same connection: when it is answered, the others have left.
                    producer.send(Producing.message(fields, messages.size()));
                    break;
                case "send-selected":
                    for (Message message : messages) {
                        log.write(Record.sent(message, producer.send(message,
                            (queues, sent, key) -> queues.get((Integer) key % queues.size()),
                            fields.number("key", 0))));
                    }
                    break;
                default:
                    for (Message message : messages) {
                        if (fields.number("level", 0) > 0) {
                            message.setDelayTimeLevel(fields.number("level", 0));
                        }
                        if (fields.verb.equals("send-compressed")) {
                            for (int i = 0; i < message.getBody().length; i++) {
                                message.getBody()[i] &= 3;
                            }
                        }
                        log.write(Record.sent(message, producer.send(message)));
                    }
            }
            return "acknowledged=" + log.lines();
        } finally {
            producer.shutdown();
        }
    }

    private static void batch(DefaultMQProducer producer, List<Message> messages, Record.Log log)
        throws Exception {
        SendResult result = producer.send(messages);
        String[] ids = result.getMsgId().split(",");
        String[] places = result.getOffsetMsgId().split(",");
        MessageQueue queue = result.getMessageQueue();
        for (int i = 0; i < messages.size(); i++) {
            log.write(Record.line(messages.get(i), queue.getBrokerName(), queue.getQueueId(),
                result.getQueueOffset() + i, ids[i], places[i]));
        }
    }

    /** Every message of a topic: its key, how long after its birth it was stored, its size there. */
    private static String look(Driver.Fields fields) throws Exception {
        DefaultMQPullConsumer consumer = Reading.started(fields);
        List<String> keys = new ArrayList<>();
        List<Long> ages = new ArrayList<>();
        List<Integer> sizes = new ArrayList<>();
        List<Integer> times = new ArrayList<>();
        List<String> origins = new ArrayList<>();
        try {
            for (MessageQueue queue
                : new TreeSet<>(consumer.fetchSubscribeMessageQueues(fields.text("topic")))) {
                long offset = consumer.minOffset(queue);
                long max = consumer.maxOffset(queue);
                while (offset < max) {
                    PullResult result = consumer.pull(queue, "*", offset, 32);
                    if (result.getPullStatus() != PullStatus.FOUND) {
                        throw new IllegalStateException(queue + " at " + offset + ": " + result);
                    }
                    for (MessageExt message : result.getMsgFoundList()) {
                        keys.add(message.getKeys());
                        ages.add(message.getStoreTimestamp() - message.getBornTimestamp());
                        sizes.add(message.getStoreSize());
                        times.add(message.getReconsumeTimes());
                        origins.add(message.getProperty("RETRY_TOPIC"));
                    }
                    offset = result.getNextBeginOffset();
                }
            }
        } finally {
            consumer.shutdown();
        }
        return "keys=" + join(keys) + "\tages=" + join(ages) + "\tsizes=" + join(sizes) + "\ttimes="
            + join(times) + "\torigins=" + join(origins);
    }

    static String join(List<?> list) {
        StringBuilder joined = new StringBuilder();
        for (Object item : list) {
            joined.append(joined.length() == 0 ? "" : ",").append(item);
        }
        return joined.toString();
    }
}
