// @NAME@: says how many words an event has, and which is the longest.
//
// What stands outside of the handler runs once, when the function is deployed; every request starts
// from the memory it left, and nothing a request changes is seen by the next one.

export default async function (request) {
    const words = (await request.text()).split(/\s+/).filter((word) => word !== "");
    const longest = words.reduce((a, b) => (b.length > a.length ? b : a), "");
    console.log("somebody has words counted"); // see: blixard fn logs @NAME@
    return Response.json({ words: words.length, longest });
}
