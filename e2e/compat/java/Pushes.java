// Push consumers: concurrent, in order, broadcast, by tag; where they begin.
package dev.gantry.compat;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.UtilAll;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

final class Pushes {
    private static final int COUNT = 40;

    private Pushes() {
    }

    static void add(Map<String, Compat.Check> checks) {
        checks.put("push_concurrent", Pushes::concurrent);
        checks.put("push_orderly", Pushes::orderly);
        checks.put("push_broadcast", Pushes::broadcast);
        checks.put("tag_filter", Pushes::tags);
        checks.put("offset_first", Pushes::first);
        checks.put("offset_last", Pushes::last);
        checks.put("offset_timestamp", Pushes::timestamp);
    }

    private static void concurrent(Bench bench) throws Exception {
        bench.send(0, COUNT);
        Got got = bench.consuming(bench.push(bench.group()), "*");
        bench.within(60, () -> got.count() >= COUNT);
        bench.settle();
        Bench.sameSet("what was consumed", bench.wanted(0, COUNT), got.texts());
    }

    /** Message n is in queue n modulo their number; one is refused once and must come again. */
    private static void orderly(Bench bench) throws Exception {
        int refused = bench.queues + 1;
        List<Message> messages = bench.messages(0, COUNT);
        Collections.rotate(messages, bench.broken ? bench.queues : 0);
        for (Message message : messages) {
            sendTo(bench, Integer.parseInt(message.getProperty("number")) % bench.queues, message);
        }
        Got got = new Got();
        Map<Integer, Integer> busy = new TreeMap<>();
        List<String> overlaps = Collections.synchronizedList(new ArrayList<>());
        DefaultMQPushConsumer consumer = bench.push(bench.group());
        consumer.subscribe(bench.topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (batch, context) -> {
            int queue = context.getMessageQueue().getQueueId();
            synchronized (busy) {
                if (busy.merge(queue, 1, Integer::sum) > 1) {
                    overlaps.add("queue " + queue);
                }
            }
            batch.forEach(got::add);
            boolean again = batch.get(0).getProperty("number").equals(Integer.toString(refused))
                && batch.get(0).getReconsumeTimes() == 0;
            synchronized (busy) {
                busy.merge(queue, -1, Integer::sum);
            }
            return again ? ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT
                : ConsumeOrderlyStatus.SUCCESS;
        });
        bench.started(consumer);
        bench.within(60, () -> got.count() > COUNT);
        bench.settle();
        for (int queue = 0; queue < bench.queues; queue++) {
            List<String> wanted = new ArrayList<>();
            for (int n = queue; n < COUNT; n += bench.queues) {
                wanted.addAll(Collections.nCopies(n == refused ? 2 : 1, bench.wanted(n)));
            }
            List<MessageExt> ofQueue = got.messages();
            int id = queue;
            ofQueue.removeIf(message -> message.getQueueId() != id);
            Bench.same("order in queue " + queue, wanted, Got.texts(ofQueue));
        }
        Bench.same("queues consumed twice at once", Collections.emptyList(), overlaps);
    }

    static long sendTo(Bench bench, int queue, Message message) throws Exception {
        return bench.producer().send(message, bench.queue(queue)).getQueueOffset();
    }

    private static void broadcast(Bench bench) throws Exception {
        bench.send(0, COUNT);
        List<Got> gots = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            DefaultMQPushConsumer consumer = bench.push(bench.group());
            model(consumer, bench.broken ? "CLUSTERING" : "BROADCASTING");
            gots.add(bench.consuming(consumer, "*"));
        }
        for (Got got : gots) {
            bench.within(60, () -> got.count() >= COUNT);
        }
        bench.settle();
        for (Got got : gots) {
            Bench.sameSet("what one consumer got", bench.wanted(0, COUNT), got.texts());
        }
    }

    /** The enum has moved to another package between the releases. */
    @SuppressWarnings({"unchecked", "rawtypes"})
    private static void model(DefaultMQPushConsumer consumer, String name) throws Exception {
        Class type = DefaultMQPushConsumer.class.getMethod("getMessageModel").getReturnType();
        DefaultMQPushConsumer.class.getMethod("setMessageModel", type)
            .invoke(consumer, Enum.valueOf(type, name));
    }

    /** Two of the tags have one hash code: a broker that filters by it passes both. */
    private static void tags(Bench bench) throws Exception {
        List<String> tags = Arrays.asList("AaAa", "BBBB", "Other", "Unwanted");
        List<String> wanted = new ArrayList<>();
        for (Message message : bench.messages(1, 1 + COUNT)) {
            String tag = tags.get(Integer.parseInt(message.getProperty("number")) % tags.size());
            message.setTags(tag);
            bench.send(message);
            if (tag.equals("AaAa") || tag.equals("Other")) {
                wanted.add(Bench.text(message));
            }
        }
        Got got =
            bench.consuming(bench.push(bench.group()), bench.broken ? "*" : "AaAa || Other");
        bench.within(60, () -> got.count() >= wanted.size());
        bench.settle();
        Bench.sameSet("what was consumed", wanted, got.texts());
    }

    private static void first(Bench bench) throws Exception {
        bench.send(0, COUNT);
        bench.readable(bench.queues, COUNT);
        long messages = 0;
        for (int queue = 0; queue < bench.queues; queue++) {
            Bench.same("first offset", 0L, bench.reader().minOffset(bench.queue(queue)));
            messages += bench.reader().maxOffset(bench.queue(queue));
        }
        Bench.same("sum of the last offsets", (long) COUNT, messages);
        Got got = from(bench, bench.broken ? ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
            : ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET, 0);
        bench.within(60, () -> got.count() >= COUNT);
        bench.settle();
        Bench.sameSet("what was consumed", bench.wanted(0, COUNT), got.texts());
    }

    /**
     * A consumer of a group without offsets that begins where it is told. In a group of the
     * clustering kind the broker answers 0 while the queue's first message is in memory, whatever
     * the consumer wants; one that broadcasts decides by itself.
     */
    private static Got from(Bench bench, ConsumeFromWhere where, long ms) throws Exception {
        DefaultMQPushConsumer consumer = bench.push(bench.group());
        model(consumer, "BROADCASTING");
        consumer.setConsumeFromWhere(where);
        if (ms > 0) {
            consumer.setConsumeTimestamp(UtilAll.timeMillisToHumanString3(ms));
        }
        return bench.consuming(consumer, "*");
    }

    private static void last(Bench bench) throws Exception {
        bench.send(0, COUNT);
        bench.readable(bench.queues, COUNT);
        Got got = from(bench, bench.broken ? ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
            : ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET, 0);
        // It has found its place in each queue when something new arrives from there.
        int[] next = {1_000};
        bench.until("new messages of each queue", 60, () -> {
            for (int queue = 0; queue < bench.queues; queue++) {
                sendTo(bench, queue, bench.message(next[0]++));
            }
            Thread.sleep(200);
            return got.messages().stream().filter(Pushes::isNew)
                .mapToInt(MessageExt::getQueueId).distinct().count() == bench.queues;
        });
        List<MessageExt> old = got.messages();
        old.removeIf(Pushes::isNew);
        Bench.same("what was sent before", Collections.emptyList(), Got.texts(old));
    }

    private static boolean isNew(MessageExt message) {
        return Integer.parseInt(message.getProperty("number")) >= 1_000;
    }

    private static void timestamp(Bench bench) throws Exception {
        bench.send(0, COUNT);
        long between = (System.currentTimeMillis() / 1_000 + 2) * 1_000;
        Thread.sleep(between + 100 - System.currentTimeMillis());
        List<Long> wanted = new ArrayList<>();
        List<Long> found = new ArrayList<>();
        for (int queue = 0; queue < bench.queues; queue++) {
            wanted.add(bench.reader().maxOffset(bench.queue(queue)));
        }
        for (int n = COUNT; n < 2 * COUNT; n++) {
            sendTo(bench, n % bench.queues, bench.message(n));
        }
        for (int queue = 0; queue < bench.queues; queue++) {
            found.add(bench.reader().searchOffset(bench.queue(queue), between));
            Bench.same("offset of the beginning of time", 0L,
                bench.reader().searchOffset(bench.queue(queue), 1));
        }
        Bench.same("offsets of the time between", wanted, found);
        Got got = from(bench, bench.broken ? ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
            : ConsumeFromWhere.CONSUME_FROM_TIMESTAMP, between);
        bench.within(60, () -> got.count() >= COUNT);
        bench.settle();
        Bench.sameSet("what was consumed", bench.wanted(COUNT, 2 * COUNT), got.texts());
    }
}
