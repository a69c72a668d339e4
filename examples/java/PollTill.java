import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.*;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

import static java.nio.charset.StandardCharsets.UTF_8;

/**
 * A till that polls: a complete client of orderbell.v1 with nothing but JDK 17.
 *
 *   ORDERBELL_TOKEN=... java PollTill.java http://127.0.0.1:8377 till-1 [--once] [--state FILE]
 *
 * It asks with `wait`, so an order rings at once, and asks again when it has the answer. What it knows is in
 * orderbell-DEVICE.json. One line for each thing that happened: ring, taken, off, code, ready, resync, stale, fresh.
 * Errors go to stderr. It ends with 2 when somebody has to mend something, and with --once after the first ring.
 */
public class PollTill {
    static final int HOLD_S = 50;        // how long the server may hold an answer
    static final int SILENCE_S = 60;     // after so long without an answer nobody knows whether there are orders
    static final int KNOWN_MAX = 5000;   // notices remembered, the newest
    static final PrintStream OUT = new PrintStream(new FileOutputStream(FileDescriptor.out), true, UTF_8);

    static class Quit extends Exception {
        final int code;
        Quit(int code, String why) { super(why); this.code = code; }
    }

    static class Later extends Exception {
        final long pauseMs;   // 0: at once, -1: the server did not say
        Later(String why, long pauseMs) { super(why); this.pauseMs = pauseMs; }
    }

    final HttpClient http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).connectTimeout(Duration.ofSeconds(10)).build();
    final String server, device, token;
    final Path stateFile;
    final boolean once;
    final Set<String> known = new LinkedHashSet<>();
    String position;
    boolean stale, resynced;   // resynced, and failures: since it last went well
    int failures;
    long heard = System.nanoTime();

    PollTill(String server, String device, String token, Path stateFile, boolean once) throws IOException {
        this.server = server.replaceAll("/+$", "");
        this.device = encode(device);
        this.token = token;
        this.stateFile = stateFile;
        this.once = once;
        if (!Files.exists(stateFile)) return;
        try {
            Map<?, ?> state = (Map<?, ?>) Json.read(Files.readString(stateFile));
            for (Object id : (List<?>) state.get("known")) known.add((String) id);
            position = (String) state.get("position");
        } catch (RuntimeException error) {
            System.err.println(stateFile + " is of no use: " + error);
        }
    }

    void run() throws Quit, InterruptedException {
        while (true) {
            Later later;
            try {
                if (position == null) resync();
                poll();
                continue;
            } catch (Later asked) {
                later = asked;
            } catch (IOException | RuntimeException error) {
                later = new Later(error.toString(), -1);
            }
            failures++;
            long most = Math.min(60_000, 1000L << Math.min(failures, 6));
            long pauseMs = later.pauseMs >= 0 ? later.pauseMs : 1000 + (long) (Math.random() * (most - 1000));
            if (System.nanoTime() - heard > SILENCE_S * 1_000_000_000L) setStale(true);
            System.err.println(later.getMessage() + "; again in " + pauseMs + " ms");
            Thread.sleep(pauseMs);
        }
    }

    void poll() throws Quit, Later, IOException, InterruptedException {
        long asked = System.nanoTime();
        Map<?, ?> answer = get("/v1/notices?device=" + device + "&wait=" + HOLD_S + "&after=" + encode(position));
        List<?> notices = (List<?>) answer.get("notices");
        for (Object notice : notices) take((Map<?, ?>) notice);
        if (!position.equals(answer.get("position"))) {
            position = (String) answer.get("position");
            save();
        }
        if (notices.isEmpty() && System.nanoTime() - asked < HOLD_S * 500_000_000L) throw new Later("the answer was not held", -1);
        failures = 0;
        resynced = false;
    }

    void take(Map<?, ?> notice) throws Quit, Later {
        String id = (String) notice.get("id"), kind = (String) notice.get("kind"), order = (String) notice.get("order");
        boolean isNew = !known.contains(id), follows = notice.get("after").equals(position);
        if (isNew && !follows) throw new Later("a notice is missing", -1);
        if (follows) position = (String) notice.get("position");
        if (!isNew) return;
        // Said first, kept next, acknowledged last: a crash in between says it twice rather than never.
        Map<?, ?> body = (Map<?, ?>) notice.get("body");
        String code = body.get("code") instanceof String text ? text : "-";
        switch (kind) {
            case "new_order" -> say("ring", order);
            case "taken" -> say("taken", order, code);
            case "cancelled", "refused" -> { if (known.contains(body.get("cancels"))) say("off", order); }
            case "pickup_code" -> say("code", order, code);
            case "ready" -> say("ready", order);
            default -> { }
        }
        keep(id, kind.equals("new_order"));
    }

    /** The open orders, and the position of the same moment: for a new till, and when ours is of no use. */
    void resync() throws Quit, Later, IOException, InterruptedException {
        Map<?, ?> page = get("/v1/orders?open=1");
        String of = (String) page.get("position");
        int count = 0;
        while (true) {
            for (Object each : (List<?>) page.get("orders")) {
                Map<?, ?> order = (Map<?, ?>) each;
                count++;
                if (order.get("notice") instanceof String id && !known.contains(id)) {
                    boolean rings = "paid".equals(order.get("stage"));
                    if (rings) say("ring", (String) order.get("order"));
                    keep(id, rings);
                }
            }
            if (!(page.get("next") instanceof String next)) break;
            page = get("/v1/orders?open=1&from=" + encode(next));
        }
        position = of;
        resynced = true;
        save();
        say("resync", String.valueOf(count));
    }

    void keep(String id, boolean rang) throws Quit {
        known.add(id);
        save();
        if (rang && once) throw new Quit(0, null);
    }

    void save() throws Quit {
        for (Iterator<String> oldest = known.iterator(); known.size() > KNOWN_MAX; ) { oldest.next(); oldest.remove(); }
        String ids = known.stream().map(Json::quote).collect(Collectors.joining(", "));
        Path fresh = Path.of(stateFile + ".new");
        try {
            Files.writeString(fresh, "{\"position\": " + (position == null ? "null" : Json.quote(position)) + ", \"known\": [" + ids + "]}",
                    StandardOpenOption.CREATE, StandardOpenOption.TRUNCATE_EXISTING, StandardOpenOption.WRITE, StandardOpenOption.SYNC);
            Files.move(fresh, stateFile, StandardCopyOption.ATOMIC_MOVE);
        } catch (IOException error) {   // what is not kept must not be acknowledged
            throw new Quit(1, "cannot keep anything: " + error);
        }
    }

    Map<?, ?> get(String path) throws Quit, Later, IOException, InterruptedException {
        HttpResponse<String> response = http.send(HttpRequest.newBuilder(URI.create(server + path)).timeout(Duration.ofSeconds(HOLD_S + 20))
                .header("Authorization", "Bearer " + token).build(), HttpResponse.BodyHandlers.ofString(UTF_8));
        int status = response.statusCode();
        if (status == 200) {
            Map<?, ?> answer = (Map<?, ?>) Json.read(response.body());
            heard = System.nanoTime();
            setStale(Boolean.TRUE.equals(answer.get("stale")));
            return answer;
        }
        if (status == 401 || status == 403) throw new Quit(2, "HTTP " + status);
        if (status == 409 || status == 410) {
            position = null;   // the open orders next, at once; but not again and again
            throw new Later("HTTP " + status, resynced ? -1 : 0);
        }
        String retryAfter = response.headers().firstValue("Retry-After").orElse("");
        throw new Later("HTTP " + status, retryAfter.matches("\\d{1,6}") ? (long) (1000 * (Integer.parseInt(retryAfter) + Math.random())) : -1);
    }

    void setStale(boolean now) {
        if (now != stale) say(now ? "stale" : "fresh");
        stale = now;
    }

    static void say(String... words) {
        OUT.println(String.join(" ", words).replaceAll("\\p{Cntrl}", " "));
    }

    static String encode(String text) {
        return URLEncoder.encode(text, UTF_8).replace("+", "%20");
    }

    public static void main(String[] args) throws InterruptedException {
        List<String> words = new ArrayList<>(List.of(args));
        boolean once = words.remove("--once");
        int at = words.indexOf("--state");
        String state = at >= 0 && at + 1 < words.size() ? words.remove(at + 1) : null;
        if (state != null) words.remove(at);
        String token = System.getenv().getOrDefault("ORDERBELL_TOKEN", "").strip();
        if (words.size() != 2 || !token.matches("[!-~]+")) {
            System.err.println("usage: ORDERBELL_TOKEN=... java PollTill.java SERVER_URL DEVICE [--once] [--state FILE]");
            System.exit(2);
        }
        Path stateFile = Path.of(state != null ? state : "orderbell-" + encode(words.get(1)) + ".json");
        try {
            new PollTill(words.get(0), words.get(1), token, stateFile, once).run();
        } catch (Quit quit) {
            if (quit.getMessage() != null) System.err.println(quit.getMessage());
            System.exit(quit.code);
        } catch (IOException error) {
            System.err.println(stateFile + " cannot be read: " + error);
            System.exit(1);
        }
    }

    /** Reads JSON: an object is a Map, an array a List, a number a Double; and String, Boolean and null. */
    static final class Json {
        static final Pattern NUMBER = Pattern.compile("-?(0|[1-9]\\d*)(\\.\\d+)?([eE][+-]?\\d+)?");
        final String text;
        int at;

        Json(String text) { this.text = text; }

        static Object read(String text) {
            Json json = new Json(text);
            Object value = json.value();
            if (json.peek() != 0) throw json.wrong();
            return value;
        }

        static String quote(String text) {
            StringBuilder quoted = new StringBuilder("\"");
            for (char c : text.toCharArray()) quoted.append(c < ' ' || c == '"' || c == '\\' ? String.format("\\u%04x", (int) c) : c);
            return quoted.append('"').toString();
        }

        Object value() {
            switch (peek()) {
                case '{': return object();
                case '[': return array();
                case '"': return string();
                case 't': return word("true", true);
                case 'f': return word("false", false);
                case 'n': return word("null", null);
                default:
                    Matcher number = NUMBER.matcher(text).region(at, text.length());
                    if (!number.lookingAt()) throw wrong();
                    at = number.end();
                    return Double.valueOf(number.group());
            }
        }

        Map<String, Object> object() {
            Map<String, Object> members = new LinkedHashMap<>();
            for (expect('{'); peek() != '}'; ) {
                if (!members.isEmpty()) expect(',');
                String name = string();
                expect(':');
                members.put(name, value());
            }
            expect('}');
            return members;
        }

        List<Object> array() {
            List<Object> items = new ArrayList<>();
            for (expect('['); peek() != ']'; ) {
                if (!items.isEmpty()) expect(',');
                items.add(value());
            }
            expect(']');
            return items;
        }

        String string() {
            StringBuilder string = new StringBuilder();
            for (expect('"'); ; ) {
                char c = next();
                if (c == '"') return string.toString();
                if (c < ' ') throw wrong();
                string.append(c == '\\' ? escaped(next()) : c);
            }
        }

        char escaped(char c) {
            if (c == 'u') {
                if (at + 4 > text.length()) throw wrong();
                return (char) HexFormat.fromHexDigits(text, at, at += 4);
            }
            int which = "\"\\/bfnrt".indexOf(c);
            if (which < 0) throw wrong();
            return "\"\\/\b\f\n\r\t".charAt(which);
        }

        Object word(String word, Object meaning) {
            if (!text.startsWith(word, at)) throw wrong();
            at += word.length();
            return meaning;
        }

        /** The next character that is no space, not taken; 0 at the end. */
        char peek() {
            while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) at++;
            return at < text.length() ? text.charAt(at) : 0;
        }

        char next() {
            if (at >= text.length()) throw wrong();
            return text.charAt(at++);
        }

        void expect(char c) {
            if (peek() != c) throw wrong();
            at++;
        }

        IllegalArgumentException wrong() { return new IllegalArgumentException("not JSON at " + at); }
    }
}
