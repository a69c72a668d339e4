import java.io.*;
import java.net.*;
import java.net.http.*;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.TimeUnit;
import java.util.regex.*;
import static java.nio.charset.StandardCharsets.UTF_8;

// A till that polls: a complete client of orderbell.v1, with nothing but JDK 17.
//     ORDERBELL_TOKEN=... java PollTill.java http://127.0.0.1:8377 till-1 [--once]
// It prints `ring ORDER`, `taken ORDER CODE`, `off ORDER` and `resync COUNT`, keeps its state in orderbell-DEVICE.json,
// and ends with 2 when it needs another token; with --once, after the first ring.
public class PollTill {
    static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    static final PrintStream OUT = new PrintStream(System.out, true, UTF_8);
    static final Deque<String> known = new ArrayDeque<>();   // the ids of the last 1000 notices
    static String server, device, token, position = "";      // without a position: begin with the open orders
    static boolean once, stale;
    static long pause = 1;                                   // in seconds, after a failure

    public static void main(String[] args) throws InterruptedException {
        token = System.getenv().getOrDefault("ORDERBELL_TOKEN", "").strip();
        if (args.length < 2 || !token.matches("[!-~]+")) exit("usage: ORDERBELL_TOKEN=T PollTill URL DEVICE [--once]");
        server = args[0].replaceAll("/+$", "");
        device = encoded(args[1]);
        once = List.of(args).contains("--once");
        try {
            Json state = new Json(Files.readString(Path.of("orderbell-" + device + ".json")));
            position = Objects.requireNonNullElse(state.remove("/position"), "");
            known.addAll(state.values());
        } catch (IOException | RuntimeException error) {
            System.err.println("No state yet, or a damaged one: beginning with the open orders");
        }
        while (true) {
            try {
                if (position.isEmpty()) openOrders("", 0);
                poll();
                pause = 1;
            } catch (Exception error) {   // no answer, or none of use
                System.err.printf("%s; again in %d s%n", error, pause);
                Thread.sleep(pause * (long) (1000 + 250 * Math.random()));
                pause = Math.min(60, 2 * pause);
            }
        }
    }

    static void openOrders(String from, int before) throws Exception {
        Json page = get("/v1/orders?open=1" + from);
        int count = before;
        for (String at = "/orders/0"; page.containsKey(at + "/order"); at = "/orders/" + (++count - before)) {
            String kind = "paid".equals(page.get(at + "/stage")) ? "new_order" : "other";
            if (page.containsKey(at + "/notice")) take(page.get(at + "/notice"), kind, page, at);
        }
        if (page.containsKey("/next")) openOrders("&from=" + encoded(page.get("/next")), count);
        else OUT.println("resync " + count);
        position = page.get("/position");   // in the end that of the first page
    }

    static void poll() throws Exception {
        long began = System.nanoTime();
        Json page = get("/v1/notices?device=" + device + "&after=" + encoded(position) + "&wait=50");
        for (int i = 0; page.containsKey("/notices/" + i + "/id"); i++) {
            String at = "/notices/" + i, id = page.get(at + "/id");
            if (position.equals(page.get(at + "/after"))) position = page.get(at + "/position");
            else if (!known.contains(id)) throw new IOException("A notice is missing before " + id);
            take(id, page.get(at + "/kind"), page, at);
        }
        position = page.get("/position");
        if (!page.containsKey("/notices/0/id") && System.nanoTime() - began < 5e9) Thread.sleep(1500);
    }

    static void take(String id, String kind, Json page, String at) throws IOException {
        if (known.contains(id)) return;
        String order = page.get(at + "/order"), code = page.getOrDefault(at + "/body/code", "-");
        boolean off = known.contains(page.get(at + "/body/cancels"));
        if (kind.equals("new_order")) OUT.println("ring " + order);
        if (kind.equals("taken")) OUT.println("taken " + order + " " + code.replaceAll("\\p{Cntrl}", " "));
        if (off && kind.matches("cancelled|refused")) OUT.println("off " + order);
        known.add(id);
        if (known.size() > 1000) known.remove();
        if (once && kind.equals("new_order")) {
            save();
            System.exit(0);
        }
    }

    static Json get(String path) throws Exception {
        save();   // said first, then kept, and only then acknowledged: by this request
        var request = HttpRequest.newBuilder(URI.create(server + path)).header("Authorization", "Bearer " + token);
        var response = HTTP.sendAsync(request.build(), HttpResponse.BodyHandlers.ofString()).get(70, TimeUnit.SECONDS);
        int status = response.statusCode();
        if (status == 401 || status == 403) exit("The server does not take this token (" + status + "): get another");
        if (status == 409 || status == 410 || status == 422) position = "";
        pause = Math.max(1, response.headers().firstValueAsLong("Retry-After").orElse(pause));
        if (status != 200) throw new IOException("HTTP " + status);
        Json answer = new Json(response.body());
        if (!answer.containsKey("/position")) throw new IOException("Not an answer");
        if ("true".equals(answer.get("/stale")) && !stale) System.err.println("stale");
        stale = "true".equals(answer.get("/stale"));
        return answer;
    }

    static void save() throws IOException {
        if (OUT.checkError()) exit("Nobody reads this, and what was not said must not be kept");
        Path file = Path.of("orderbell-" + device + ".json"), fresh = Path.of(file + ".new");
        String ids = String.join("\", \"", known);   // like positions, these have nothing to escape
        Files.writeString(fresh, "{\"position\": \"" + position + "\", \"known\": [\"" + ids + "\"]}");
        Files.move(fresh, file, StandardCopyOption.ATOMIC_MOVE);
    }

    static void exit(String why) {
        System.err.println(why);
        System.exit(2);
    }

    static String encoded(String text) {
        return URLEncoder.encode(text, UTF_8).replace("+", "%20");
    }

    /** Reads JSON into a map from path to text: {"a": [{"b": true}, 1]} becomes {"/a/0/b": "true", "/a/1": "1"}. */
    static class Json extends LinkedHashMap<String, String> {
        static final Pattern TOKEN = Pattern.compile("[\\[\\]{}]|\"(?:[^\"\\\\]|\\\\.)*+\"|[^\\s,:\\[\\]{}\"]++");
        static final Pattern ESCAPE = Pattern.compile("\\\\(?:u(....)|.)");

        Json(String text) {
            Iterator<String> tokens = TOKEN.matcher(text).results().map(MatchResult::group).iterator();
            read("", tokens.next(), tokens);
        }

        void read(String path, String token, Iterator<String> tokens) {
            boolean object = token.equals("{");
            if (object || token.equals("[")) {
                String end = object ? "}" : "]", next = tokens.next();
                for (int i = 0; !next.equals(end); i++, next = tokens.next()) {
                    read(path + "/" + (object ? text(next) : i), object ? tokens.next() : next, tokens);
                }
            } else if (!token.equals("null")) {
                put(path, text(token));
            }
        }

        static String text(String token) {
            if (!token.startsWith("\"")) return token;
            return ESCAPE.matcher(token.substring(1, token.length() - 1)).replaceAll(escape -> Matcher.quoteReplacement(
                    escape.group(1) != null ? Character.toString(Integer.parseInt(escape.group(1), 16))
                    : escape.group().equals("\\/") ? "/" : escape.group().translateEscapes()));
        }
    }
}
