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
// It prints `ring ORDER`, `accepted ORDER PICKUP_CODE`, `cancelled ORDER` and `resync COUNT`. Its state is in
// orderbell-DEVICE.json. It exits with 2 when it needs another token, and with --once after the first ring.
public class PollTill {
    static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    static final PrintStream OUT = new PrintStream(System.out, true, UTF_8);
    static final Deque<String> known = new ArrayDeque<>();   // ids of the newest 1000 notices
    static String server, device, token, position = "";      // empty: begin with the open orders
    static boolean once, stale;
    static long delay = 1;                                   // in seconds, before the next attempt

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
            System.err.println("The state is missing or damaged: beginning with the open orders");
        }
        while (true) {
            try {
                if (position.isEmpty()) openOrders("", 0);
                poll();
                delay = 1;
            } catch (Exception error) {   // no answer, or an unexpected one
                System.err.printf("%s; retrying in %d s%n", error, delay);
                Thread.sleep(delay * (long) (1000 + 250 * Math.random()));
                delay = Math.min(60, 2 * delay);
            }
        }
    }

    static void openOrders(String from, int before) throws Exception {
        Json page = get("/v1/orders?open=1" + from);
        int count = before;
        for (String at = "/orders/0"; page.containsKey(at + "/order"); at = "/orders/" + (++count - before)) {
            String kind = "paid".equals(page.get(at + "/stage")) ? "new_order" : "other";
            if (page.containsKey(at + "/notice")) process(page.get(at + "/notice"), kind, page, at);
        }
        if (page.containsKey("/next")) openOrders("&from=" + encoded(page.get("/next")), count);
        else OUT.println("resync " + count);
        position = page.get("/position");   // the recursion ends with that of the first page
    }

    static void poll() throws Exception {
        long began = System.nanoTime();
        Json page = get("/v1/notices?device=" + device + "&after=" + encoded(position) + "&wait=50");
        for (int i = 0; page.containsKey("/notices/" + i + "/id"); i++) {
            String at = "/notices/" + i, id = page.get(at + "/id");
            if (position.equals(page.get(at + "/prev"))) position = page.get(at + "/position");
            else if (!known.contains(id)) throw new IOException("A notice is missing before " + id);
            process(id, page.get(at + "/kind"), page, at);
        }
        position = page.get("/position");
        if (!page.containsKey("/notices/0/id") && System.nanoTime() - began < 5e9) Thread.sleep(1500);
    }

    static void process(String id, String kind, Json page, String at) throws IOException {
        if (known.contains(id)) return;
        String order = page.get(at + "/order"), code = page.getOrDefault(at + "/body/pickup_code", "-");
        boolean cancels = known.contains(page.get(at + "/body/cancels"));
        if (kind.equals("new_order")) OUT.println("ring " + order);
        if (kind.equals("order_accepted")) OUT.println("accepted " + order + " " + code.replaceAll("\\p{Cntrl}", " "));
        if (cancels && kind.matches("cancelled|order_refused")) OUT.println("cancelled " + order);
        known.add(id);
        if (known.size() > 1000) known.remove();
        if (once && kind.equals("new_order")) {
            save();
            System.exit(0);
        }
    }

    static Json get(String path) throws Exception {
        save();   // print, then store, and only then acknowledge: by this request
        var request = HttpRequest.newBuilder(URI.create(server + path)).header("Authorization", "Bearer " + token);
        var response = HTTP.sendAsync(request.build(), HttpResponse.BodyHandlers.ofString()).get(70, TimeUnit.SECONDS);
        int status = response.statusCode();
        if (status == 401 || status == 403) exit("The server rejects this token (" + status + "): get another one");
        if (status == 409 || status == 410 || status == 422) position = "";
        delay = Math.max(1, response.headers().firstValueAsLong("Retry-After").orElse(delay));
        if (status != 200) throw new IOException("HTTP " + status);
        Json answer = new Json(response.body());
        if (!answer.containsKey("/position")) throw new IOException("The answer has no position");
        if ("true".equals(answer.get("/stale")) && !stale) System.err.println("stale");
        stale = "true".equals(answer.get("/stale"));
        return answer;
    }

    static void save() throws IOException {
        if (OUT.checkError()) exit("The output is closed, and a notice that was not printed must not be stored");
        Path file = Path.of("orderbell-" + device + ".json"), fresh = Path.of(file + ".new");
        String ids = String.join("\", \"", known);   // like positions, ids contain nothing to escape
        Files.writeString(fresh, "{\"position\": \"" + position + "\", \"known\": [\"" + ids + "\"]}");
        Files.move(fresh, file, StandardCopyOption.ATOMIC_MOVE);
    }

    static void exit(String reason) {
        System.err.println(reason);
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
