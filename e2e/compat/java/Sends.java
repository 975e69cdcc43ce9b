// Sending: each message is read back by the queue and offset that its acknowledgement names.
package dev.gantry.compat;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

final class Sends {
    private static final int COUNT = 20;

    private Sends() {
    }

    static void add(Map<String, Compat.Check> checks) {
        checks.put("send_sync", Sends::sync);
        checks.put("send_async", Sends::async);
        checks.put("send_oneway", Sends::oneway);
        checks.put("send_batch", Sends::batch);
        checks.put("send_selector", Sends::selector);
        checks.put("send_compressed", Sends::compressed);
    }

    private static void sync(Bench bench) throws Exception {
        for (int n = 0; n < COUNT; n++) {
            readBack(bench, n, bench.send(bench.message(n)));
        }
    }

    private static void readBack(Bench bench, int n, SendResult result) throws Exception {
        Bench.same("status of " + n, SendStatus.SEND_OK, result.getSendStatus());
        MessageExt found = bench.at(result.getMessageQueue(), result.getQueueOffset());
        Bench.same("message " + n, bench.wanted(n), Bench.text(found));
        Bench.same("id of " + n, result.getMsgId(), found.getMsgId());
    }

    private static void async(Bench bench) throws Exception {
        Map<Integer, SendResult> results = new ConcurrentHashMap<>();
        List<String> failures = Collections.synchronizedList(new ArrayList<>());
        for (int n = 0; n < COUNT; n++) {
            int number = n;
            bench.producer().send(bench.message(n), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    results.put(number, result);
                }

                @Override
                public void onException(Throwable thrown) {
                    failures.add(thrown.toString());
                }
            });
        }
        bench.until(COUNT + " callbacks", 20, () -> results.size() + failures.size() == COUNT);
        Bench.same("failures", Collections.emptyList(), failures);
        for (int n = 0; n < COUNT; n++) {
            readBack(bench, n, results.get(n));
        }
    }

    private static void oneway(Bench bench) throws Exception {
        for (Message message : bench.messages(0, COUNT)) {
            bench.producer().sendOneway(message);
        }
        List<MessageExt> all = new ArrayList<>();
        bench.within(10, () -> {
            all.clear();
            all.addAll(bench.readAll(bench.queues()));
            return all.size() >= COUNT;
        });
        Bench.sameSet("what was sent", bench.wanted(0, COUNT), Got.texts(all));
    }

    private static void batch(Bench bench) throws Exception {
        SendResult result = bench.producer().send(bench.messages(0, COUNT));
        Bench.same("status", SendStatus.SEND_OK, result.getSendStatus());
        List<String> found = new ArrayList<>();
        List<String> ids = new ArrayList<>();
        for (int n = 0; n < COUNT; n++) {
            MessageExt message = bench.at(result.getMessageQueue(), result.getQueueOffset() + n);
            found.add(Bench.text(message));
            ids.add(message.getMsgId());
        }
        Bench.same("messages at adjacent offsets", bench.wanted(0, COUNT), found);
        Bench.same("ids", Arrays.asList(result.getMsgId().split(",")), ids);
    }

    private static void selector(Bench bench) throws Exception {
        for (int n = 0; n < COUNT; n++) {
            int id = n * n % bench.queues;
            SendResult result = bench.producer().send(bench.message(n),
                (queues, message, wanted) -> queues.get(bench.broken ? 0 : (Integer) wanted), id);
            Bench.same("queue of " + n, bench.queue(id), result.getMessageQueue());
            readBack(bench, n, result);
        }
    }

    private static void compressed(Bench bench) throws Exception {
        byte[] body = new byte[64 * 1024];
        Arrays.fill(body, (byte) 'x');
        Message message = bench.message(1);
        message.setBody(body.clone());
        SendResult result = bench.send(message);
        MessageExt found = bench.at(result.getMessageQueue(), result.getQueueOffset());
        body[0] = (byte) (bench.broken ? 'y' : 'x');
        Bench.check(Arrays.equals(body, found.getBody()), "the body is another");
        Bench.check(found.getStoreSize() < body.length,
            "stored with " + found.getStoreSize() + " bytes: not as it was sent");
    }
}
