// Prints the official jar's request codes, response codes, versions and language codes by reflection,
// a line each, so that a file of them can be compared with the jar and with Gantry's own tables.
package dev.gantry.e2e;

import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.util.TreeMap;
import org.apache.rocketmq.common.MQVersion;
import org.apache.rocketmq.remoting.protocol.LanguageCode;
import org.apache.rocketmq.remoting.protocol.RequestCode;
import org.apache.rocketmq.remoting.protocol.ResponseCode;

public final class Constants {
    private Constants() {
    }

    public static void main(String[] args) throws Exception {
        integers("request", RequestCode.class);
        integers("response", ResponseCode.class);
        for (MQVersion.Version version : MQVersion.Version.values()) {
            System.out.println("version\t" + version.name() + "\t" + version.ordinal());
        }
        System.out.println("version\tCURRENT\t" + MQVersion.CURRENT_VERSION);
        for (LanguageCode language : LanguageCode.values()) {
            System.out.println("language\t" + language.name() + "\t" + language.getCode());
        }
    }

    private static void integers(String kind, Class<?> constants) throws Exception {
        TreeMap<String, Integer> named = new TreeMap<>();
        for (Class<?> level = constants; level != Object.class; level = level.getSuperclass()) {
            for (Field field : level.getDeclaredFields()) {
                Class<?> type = field.getType();
                boolean number = type == int.class || type == short.class;
                if (Modifier.isStatic(field.getModifiers()) && number) {
                    named.put(field.getName(), ((Number) field.get(null)).intValue());
                }
            }
        }
        named.forEach((name, value) -> System.out.println(kind + "\t" + name + "\t" + value));
    }
}
