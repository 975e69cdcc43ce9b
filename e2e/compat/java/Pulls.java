// Consumers that ask: by queue and offset, and LitePull.
package dev.gantry.compat;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

final class Pulls {
    private static final int COUNT = 20;
    /** Of a pull that finds messages. */
    private static final int ON_ITS_WAY_MS_MAX = 500;

    private Pulls() {
    }

    static void add(Map<String, Compat.Check> checks) {
        checks.put("pull", Pulls::pull);
        checks.put("lite_assign", Pulls::assign);
        checks.put("lite_subscribe", Pulls::subscribe);
        checks.put("lite_seek", Pulls::seek);
    }

    private static void pull(Bench bench) throws Exception {
        MessageQueue queue = bench.queue(0);
        for (int n = 0; n < COUNT; n++) {
            Pushes.sendTo(bench, 0, bench.message(n));
        }
        bench.readable(1, COUNT);
        DefaultMQPullConsumer consumer = bench.at(new DefaultMQPullConsumer(bench.group()));
        consumer.start();
        bench.atEnd(consumer::shutdown);
        consumer.fetchSubscribeMessageQueues(bench.topic);
        List<String> got = new ArrayList<>();
        for (int from = 0; from < COUNT; from += 5) {
            PullResult result = consumer.pull(queue, "*", from, 5);
            Bench.same("status", PullStatus.FOUND, result.getPullStatus());
            Bench.same("next, min, max", Arrays.asList(from + 5L, 0L, (long) COUNT), Arrays.asList(
                result.getNextBeginOffset(), result.getMinOffset(), result.getMaxOffset()));
            got.addAll(Got.texts(result.getMsgFoundList()));
        }
        Bench.same("messages by offset", bench.wanted(0, COUNT), got);
        for (long beyond : new long[] {COUNT, COUNT + 1, 1_000}) {
            PullResult result = consumer.pull(queue, "*", beyond, 5);
            PullStatus wanted = beyond == COUNT ? PullStatus.NO_NEW_MSG : PullStatus.OFFSET_ILLEGAL;
            Bench.same("status at " + beyond, wanted, result.getPullStatus());
            Bench.same("next at " + beyond, (long) COUNT, result.getNextBeginOffset());
        }
        consumer.getDefaultMQPullConsumerImpl().getOffsetStore()
            .updateConsumeOffsetToBroker(queue, 7, false);
        Bench.same("committed offset", 7L, consumer.fetchConsumeOffset(queue, true));
    }

    private static void assign(Bench bench) throws Exception {
        List<String> wanted = new ArrayList<>();
        List<MessageQueue> assigned = Arrays.asList(bench.queue(0), bench.queue(1));
        for (int n = 0; n < COUNT; n++) {
            Pushes.sendTo(bench, n % bench.queues, bench.message(n));
            if (n % bench.queues < assigned.size()) {
                wanted.add(bench.wanted(n));
            }
        }
        DefaultLitePullConsumer consumer = bench.lite();
        consumer.start();
        consumer.assign(assigned);
        Bench.sameSet("what was polled", wanted, Got.texts(poll(bench, consumer, wanted.size())));
        consumer.commitSync();
        for (MessageQueue queue : assigned) {
            Bench.same("committed in " + queue, (long) COUNT / bench.queues,
                consumer.committed(queue));
        }
    }

    private static List<MessageExt> poll(Bench bench, DefaultLitePullConsumer consumer, int count)
        throws Exception {
        List<MessageExt> got = new ArrayList<>();
        bench.within(60, () -> {
            got.addAll(consumer.poll(500));
            return got.size() >= count;
        });
        got.addAll(consumer.poll(1_000)); // what should not come
        return got;
    }

    private static void subscribe(Bench bench) throws Exception {
        // A second consumer of the group goes on where the first one has stopped.
        for (int part = 0; part < 2; part++) {
            bench.send(part * COUNT, (part + 1) * COUNT);
            DefaultLitePullConsumer consumer = bench.lite();
            consumer.subscribe(bench.topic, "*");
            consumer.start();
            Bench.sameSet("what was polled", bench.wanted(part * COUNT, (part + 1) * COUNT),
                Got.texts(poll(bench, consumer, COUNT)));
            consumer.commitSync();
            consumer.shutdown();
        }
    }

    private static void seek(Bench bench) throws Exception {
        int place = 12;
        MessageQueue queue = bench.queue(0);
        for (int n = 0; n < COUNT; n++) {
            Pushes.sendTo(bench, 0, bench.message(n));
        }
        DefaultLitePullConsumer consumer = bench.lite();
        consumer.start();
        consumer.assign(Collections.singletonList(queue));
        if (!bench.broken) {
            quietly(consumer, queue, () -> consumer.seek(queue, place));
        }
        Bench.same("from " + place, bench.wanted(place, COUNT),
            Got.texts(poll(bench, consumer, COUNT - place)));
        quietly(consumer, queue, () -> consumer.seekToBegin(queue));
        Bench.same("from the beginning", bench.wanted(0, COUNT),
            Got.texts(poll(bench, consumer, COUNT)));
        quietly(consumer, queue, () -> {
            consumer.seek(queue, 0);
            consumer.seekToEnd(queue);
        });
        Pushes.sendTo(bench, 0, bench.message(COUNT));
        Bench.same("from the end", bench.wanted(COUNT, COUNT + 1),
            Got.texts(poll(bench, consumer, 1)));
    }

    private interface Seeking {
        void run() throws Exception;
    }

    /** While no pull is on its way: the client would take what that brings after it has sought. */
    private static void quietly(
        DefaultLitePullConsumer consumer, MessageQueue queue, Seeking seeking) throws Exception {
        List<MessageQueue> queues = Collections.singletonList(queue);
        consumer.pause(queues);
        Thread.sleep(ON_ITS_WAY_MS_MAX);
        seeking.run();
        consumer.resume(queues);
    }
}
