// What a delivery is.

// Compares without telling by its time where two texts differ.
export function isSame(one, other) {
    let difference = one.length ^ other.length;
    for (let i = 0; i < one.length; i++) difference |= one.charCodeAt(i) ^ other.charCodeAt(i % other.length);
    return difference === 0;
}

const isName = (text) => typeof text === "string" && /^[\w.-]{1,100}$/.test(text);

// { id, event, body }, or { problem }.
export function readDelivery(id, body) {
    if (!isName(id)) return { problem: "X-Delivery is to hold the delivery's id: letters, digits, '.', '_' and '-'" };
    let event;
    try {
        event = JSON.parse(body).event;
    } catch (error) {
        return { problem: "the body is no JSON" };
    }
    return isName(event) ? { id, event, body } : { problem: "the body has no \"event\"" };
}
