// What a broker does for groups of consumers: retries and dead letters, delays, sharing of queues,
// namespaces, traces.
package dev.gantry.compat;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

final class Groups {
    private Groups() {
    }

    static void add(Map<String, Compat.Check> checks) {
        checks.put("retry_dlq", Groups::retry);
        checks.put("delay_levels", Groups::delay);
        checks.put("rebalance", Groups::rebalance);
        checks.put("namespace", Groups::namespace);
        checks.put("trace", Groups::trace);
    }

    private static void retry(Bench bench) throws Exception {
        int count = 4;
        Got got = new Got();
        DefaultMQPushConsumer consumer = bench.push(bench.group());
        consumer.setMaxReconsumeTimes(1);
        consumer.subscribe(bench.topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (batch, context) -> {
            batch.forEach(got::add);
            return bench.broken ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS
                : ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        bench.started(consumer);
        bench.send(1, 1 + count);
        bench.until("one retry of each message", 100, () -> got.count() >= 2 * count);
        List<String> wanted = new ArrayList<>();
        for (int times = 0; times < 2; times++) {
            for (String text : bench.wanted(1, 1 + count)) {
                wanted.add(times + " " + bench.topic + " " + text);
            }
        }
        List<String> seen = new ArrayList<>();
        for (MessageExt message : got.messages()) {
            seen.add(message.getReconsumeTimes() + " " + message.getTopic() + " "
                + Bench.text(message));
        }
        Bench.sameSet("deliveries: times, topic, message", wanted, seen);
        MessageQueue letters = new MessageQueue("%DLQ%" + bench.group(), bench.broker, 0);
        List<MessageExt> dead = new ArrayList<>();
        bench.within(60, () -> {
            dead.clear();
            try {
                bench.reader().fetchSubscribeMessageQueues(letters.getTopic());
                dead.addAll(bench.readAll(Collections.singletonList(letters)));
            } catch (MQClientException noRoute) {
                return false;
            }
            return dead.size() >= count;
        });
        Bench.sameSet("dead letters", bench.wanted(1, 1 + count), Got.texts(dead));
        for (MessageExt message : dead) {
            Bench.same("origin", bench.topic, message.getProperty("RETRY_TOPIC"));
        }
    }

    private static void delay(Bench bench) throws Exception {
        int[] seconds = {0, 1, 5, 10};
        int lateMsMax = 5_000;
        Got got = bench.consuming(bench.push(bench.group()), "*");
        bench.send(bench.message(100));
        bench.until("a message without delay", 60, () -> got.count() == 1);
        got.clear();
        long[] sentMs = new long[seconds.length];
        for (int level = 1; level < seconds.length; level++) {
            Message message = bench.message(level);
            if (!bench.broken) {
                message.setDelayTimeLevel(level);
            }
            sentMs[level] = System.currentTimeMillis();
            bench.send(message);
        }
        bench.until("each message", 30, () -> got.count() >= seconds.length - 1);
        Bench.same("order and content", bench.wanted(1, seconds.length), got.texts());
        for (int level = 1; level < seconds.length; level++) {
            long tookMs = got.arrivedMs(level - 1) - sentMs[level];
            Bench.check(tookMs >= seconds[level] * 1_000L
                && tookMs <= seconds[level] * 1_000L + lateMsMax,
                "level " + level + ", " + seconds[level] + " s, came after " + tookMs + " ms");
            Bench.same("topic", bench.topic, got.messages().get(level - 1).getTopic());
        }
    }

    private static void rebalance(Bench bench) throws Exception {
        List<Got> gots = new ArrayList<>();
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            consumers.add(bench.push(bench.group(bench.broken ? "-" + i : "")));
            gots.add(bench.consuming(consumers.get(i), "*"));
        }
        int[] next = {1};
        int half = bench.queues / 2;
        // Until the queues are shared, a round may be consumed by one, or twice.
        bench.until("each consumer has half of the queues", 90,
            () -> round(bench, next, gots, 1).equals(Arrays.asList(half, half)));
        List<Integer> shared = round(bench, next, gots, 10);
        Bench.same("messages a consumer", Arrays.asList(10 * half, 10 * half), shared);
        Set<Integer> both = new TreeSet<>();
        gots.get(0).messages().forEach(message -> both.add(message.getQueueId()));
        for (MessageExt message : gots.get(1).messages()) {
            Bench.check(!both.contains(message.getQueueId()),
                "queue " + message.getQueueId() + " has two consumers");
        }
        consumers.get(1).shutdown();
        List<Integer> alone = Arrays.asList(2 * half, 0);
        bench.until("one consumer has all queues", 90,
            () -> round(bench, next, gots, 1).equals(alone));
        Bench.same("messages of the last consumer", Arrays.asList(20 * half, 0),
            round(bench, next, gots, 10));
    }

    /**
     * Sends some messages to each queue. How many each consumer has got, if each message came once
     * and nothing is missing; an empty list otherwise.
     */
    private static List<Integer> round(Bench bench, int[] next, List<Got> gots, int each)
        throws Exception {
        List<String> wanted = new ArrayList<>();
        gots.forEach(Got::clear);
        for (int i = 0; i < each * bench.queues; i++) {
            wanted.add(bench.wanted(next[0]));
            Pushes.sendTo(bench, i % bench.queues, bench.message(next[0]++));
        }
        List<String> seen = new ArrayList<>();
        bench.within(5, () -> {
            seen.clear();
            gots.forEach(got -> seen.addAll(got.texts()));
            return seen.size() >= wanted.size();
        });
        try {
            Bench.sameSet("round", wanted, seen);
        } catch (Bench.Differs otherwise) {
            return Collections.emptyList();
        }
        List<Integer> counts = new ArrayList<>();
        gots.forEach(got -> counts.add(got.count()));
        return counts;
    }

    /** One topic in two namespaces: each consumer sees its own, under the name without namespace. */
    private static void namespace(Bench bench) throws Exception {
        String[] names = {"NSA", "NSB"};
        List<Got> gots = new ArrayList<>();
        for (int i = 0; i < names.length; i++) {
            DefaultMQProducer producer = new DefaultMQProducer(bench.group("-producer"));
            producer.setNamespace(names[i]);
            bench.started(producer);
            for (Message message : bench.messages(1 + 10 * i, 11 + 10 * i)) {
                producer.send(message);
            }
            DefaultMQPushConsumer consumer = bench.push(bench.group());
            consumer.setNamespace(names[bench.broken ? 1 - i : i]);
            gots.add(bench.consuming(consumer, "*"));
        }
        for (int i = 0; i < names.length; i++) {
            Got got = gots.get(i);
            bench.within(60, () -> got.count() >= 10);
            bench.settle();
            List<String> wanted = bench.wanted(1 + 10 * i, 11 + 10 * i);
            Bench.sameSet("in " + names[i], wanted, got.texts());
            for (MessageExt message : got.messages()) {
                Bench.same("topic", bench.topic, message.getTopic());
            }
            List<MessageQueue> stored = new ArrayList<>();
            String topic = names[i] + "%" + bench.topic;
            bench.reader().fetchSubscribeMessageQueues(topic).forEach(stored::add);
            Bench.sameSet("in " + topic, wanted, Got.texts(bench.readAll(stored)));
        }
    }

    /** A trace record is text: fields between \1, the records of a message between \2. */
    private static void trace(Bench bench) throws Exception {
        DefaultMQProducer producer = bench.started(
            new DefaultMQProducer(bench.group("-producer"), null, !bench.broken, null));
        SendResult sent = producer.send(bench.message(1));
        Got got = new Got();
        DefaultMQPushConsumer consumer = bench.at(new DefaultMQPushConsumer(bench.group(), null,
            new AllocateMessageQueueAveragely(), !bench.broken, null));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(bench.topic, "*");
        consumer.registerMessageListener(got.concurrently());
        bench.started(consumer);
        bench.until("the message", 60, () -> got.count() == 1);
        Bench.same("id", sent.getMsgId(), got.messages().get(0).getMsgId());
        String traces = "RMQ_SYS_TRACE_TOPIC";
        Set<String> kinds = new TreeSet<>();
        bench.within(60, () -> {
            try {
                Set<MessageQueue> queues = bench.reader().fetchSubscribeMessageQueues(traces);
                for (MessageExt message : bench.readAll(queues)) {
                    kinds(message, sent.getMsgId(), bench.topic, kinds);
                }
            } catch (MQClientException noRoute) {
                return false;
            }
            return kinds.size() >= 3;
        });
        Bench.same("records of the message",
            new TreeSet<>(Arrays.asList("Pub", "SubBefore", "SubAfter")), kinds);
    }

    private static void kinds(MessageExt record, String id, String topic, Set<String> kinds) {
        for (String text : new String(record.getBody(), StandardCharsets.UTF_8).split("\2")) {
            List<String> fields = Arrays.asList(text.split("\1"));
            boolean known = fields.contains(id) && record.getKeys().contains(id);
            if (known && (!fields.get(0).equals("Pub") || fields.contains(topic))) {
                kinds.add(fields.get(0));
            }
        }
    }
}
