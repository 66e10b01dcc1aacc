// A receiver of webhooks: each delivery goes to a queue once.
//
//     seen/ID        a delivery that was taken, for a day
//     count/EVENT    how many deliveries of an event there were
import { kv, log, queue, span } from "blixard";
import { isSame, readDelivery } from "./delivery.js";

const DAY = 24 * 60 * 60 * 1000;

function refuse(status, error) {
    return Response.json({ error }, { status });
}

// Claim the id; null: somebody has.
function claim(id) {
    return kv.set(`seen/${id}`, new Date().toISOString(), { revision: 0, ttl: DAY });
}

function take({ id, event, body }, name) {
    const revision = claim(id);
    if (revision === null) return Response.json({ id, state: "seen before" });
    try {
        const message = span("send", () => queue.send(name, body, { type: "application/json", attributes: { event, delivery: id } }));
        kv.update(`count/${event}`, (old) => String(Number(old?.text() ?? 0) + 1));
        log.info("taken", { id, event, message });
        return Response.json({ id, state: "taken" }, { status: 202 });
    } catch (error) {
        kv.delete(`seen/${id}`, { revision }); // it may come again
        log.error("not taken", { id, event, why: error.message });
        return refuse(503, "not now: send it again");
    }
}

function counts() {
    return Object.fromEntries(kv.list("count/").map((key) => [key.slice("count/".length), Number(kv.get(key)?.text() ?? 0)]));
}

export default async function (request, { TOKEN, QUEUE = "deliveries" }) {
    if (!isSame(request.headers.get("x-webhook-token") ?? "", TOKEN)) return refuse(401, "which token?");
    if (request.method === "GET") return Response.json(counts());
    const delivery = readDelivery(request.headers.get("x-delivery"), await request.text());
    return delivery.problem ? refuse(400, delivery.problem) : take(delivery, QUEUE);
}
