// One message as a line of a record file. The harness knows the same columns in the same order.
package dev.gantry.e2e;

import java.io.BufferedWriter;
import java.io.Closeable;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.zip.CRC32;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageClientExt;
import org.apache.rocketmq.common.message.MessageExt;

final class Record {
    private Record() {
    }

    static String sent(Message message, SendResult result) {
        return line(message, result.getMessageQueue().getBrokerName(),
            result.getMessageQueue().getQueueId(), result.getQueueOffset(), result.getMsgId(),
            result.getOffsetMsgId());
    }

    static String received(MessageExt message) {
        String offsetId = message instanceof MessageClientExt
            ? ((MessageClientExt) message).getOffsetMsgId() : message.getMsgId();
        return line(message, message.getBrokerName(), message.getQueueId(),
            message.getQueueOffset(), message.getMsgId(), offsetId);
    }

    static String line(Message message, String broker, int queue, long offset, String id,
        String offsetId) {
        CRC32 body = new CRC32();
        body.update(message.getBody());
        return broker + "\t" + queue + "\t" + offset + "\t" + message.getKeys() + "\t"
            + message.getTags() + "\t" + message.getBody().length + "\t" + body.getValue() + "\t"
            + id + "\t" + offsetId;
    }

    /** A record file, appended to by many threads; a line is on its way to disk when write returns. */
    static final class Log implements Closeable {
        private final BufferedWriter out;
        private long lines;

        Log(String path) throws IOException {
            Path file = Paths.get(path);
            Files.createDirectories(file.toAbsolutePath().getParent());
            out = Files.newBufferedWriter(file, StandardCharsets.UTF_8);
        }

        synchronized void write(String line) throws IOException {
            out.write(line);
            out.newLine();
            lines++;
        }

        synchronized long lines() {
            return lines;
        }

        synchronized void flush() throws IOException {
            out.flush();
        }

        @Override
        public synchronized void close() throws IOException {
            out.close();
        }
    }
}
