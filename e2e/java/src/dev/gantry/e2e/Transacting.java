// Messages in transactions: a producer that ends each as its key says, at once or when it is asked, and
// counts how often it is asked.
package dev.gantry.e2e;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentSkipListMap;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

final class Transacting implements TransactionListener {
    private final TransactionMQProducer producer;
    private final Map<String, Integer> asked = new ConcurrentSkipListMap<>();

    Transacting(Driver.Fields fields) throws Exception {
        producer = new TransactionMQProducer(fields.text("group"));
        producer.setNamesrvAddr(fields.text("namesrv"));
        producer.setInstanceName("t" + System.nanoTime());
        producer.setVipChannelEnabled(false);
        // Who has sent nothing is known to a broker by its heartbeats alone.
        producer.setPollNameServerInterval(500);
        producer.setHeartbeatBrokerInterval(500);
        producer.setTransactionListener(this);
        producer.start();
    }

    /** Sends a message for each key; answers what has become of them. */
    String send(Driver.Fields fields) throws Exception {
        List<String> states = new ArrayList<>();
        for (String key : fields.text("keys").split(",")) {
            byte[] body = key.getBytes(StandardCharsets.UTF_8);
            Message message = new Message(fields.text("topic"), "tag", key, body);
            states.add(producer.sendMessageInTransaction(message, null)
                .getLocalTransactionState().name());
        }
        return "states=" + String.join(",", states);
    }

    String asked() {
        return "asked=" + asked;
    }

    String stop() {
        producer.shutdown();
        return asked();
    }

    @Override
    public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
        return state(message.getKeys());
    }

    @Override
    public LocalTransactionState checkLocalTransaction(MessageExt message) {
        String key = message.getKeys();
        asked.merge(key, 1, Integer::sum);
        return key.startsWith("later-") ? state(key.substring("later-".length())) : state(key);
    }

    private static LocalTransactionState state(String key) {
        if (key.startsWith("commit")) {
            return LocalTransactionState.COMMIT_MESSAGE;
        }
        return key.startsWith("rollback")
            ? LocalTransactionState.ROLLBACK_MESSAGE : LocalTransactionState.UNKNOW;
    }
}
