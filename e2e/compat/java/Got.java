// What a consumer was given, in the order of arrival.
package dev.gantry.compat;

import java.util.ArrayList;
import java.util.List;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.message.MessageExt;

final class Got {
    private final List<MessageExt> messages = new ArrayList<>();
    private final List<Long> times = new ArrayList<>();

    MessageListenerConcurrently concurrently() {
        return (batch, context) -> {
            batch.forEach(this::add);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        };
    }

    synchronized void add(MessageExt message) {
        messages.add(message);
        times.add(System.currentTimeMillis());
    }

    synchronized int count() {
        return messages.size();
    }

    synchronized List<MessageExt> messages() {
        return new ArrayList<>(messages);
    }

    synchronized long arrivedMs(int at) {
        return times.get(at);
    }

    synchronized void clear() {
        messages.clear();
        times.clear();
    }

    List<String> texts() {
        return texts(messages());
    }

    static List<String> texts(List<MessageExt> messages) {
        List<String> texts = new ArrayList<>();
        messages.forEach(message -> texts.add(Bench.text(message)));
        return texts;
    }
}
