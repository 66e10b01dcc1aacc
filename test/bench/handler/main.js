// The handler of the comparison in JavaScript: Blixard, deno and workerd run this very file.
export default {
    async fetch(request) {
        return new Response((await request.text()).toUpperCase());
    },
};
