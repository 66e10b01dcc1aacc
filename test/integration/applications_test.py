"""The small applications of examples/, deployed and used through the command line and HTTP."""
import concurrent.futures
import http.client
import json
import pathlib
import shutil
import tempfile
import time
import unittest

from node import QUICK, Node
from registry import need_registry

PLAIN_ONLY = "the time goes to compilers"

ROOT = pathlib.Path(__file__).resolve().parents[2]
node = None
folder = None


def setUpModule():
    global node, folder
    folder = tempfile.TemporaryDirectory(prefix="blixard-applications-")
    node = Node(arguments=QUICK)


def tearDownModule():
    node.stop()
    folder.cleanup()


def deploy(name, *flags):
    project = pathlib.Path(folder.name) / name
    shutil.copytree(ROOT / "examples" / name, project, ignore=shutil.ignore_patterns("build"))
    node.cli("fn", "deploy", name, project, *flags)


def ask(path, method="GET", body=None, fields=None):
    """(status, text, header fields)"""
    host, port = node.gateway.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.request(method, f"/fn/{path}", body, headers=fields or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


def messages(queue):
    return json.loads(node.cli("queue", "receive", queue, "--max", 100, "--ack", "--output", "json"))["messages"]


class Shortlinks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        deploy("shortlinks")

    def test_a_name_leads_to_its_address(self):
        status, name, fields = ask("shortlinks", "POST", "https://www.debian.org/?a=b#c\n")
        self.assertEqual((status, fields["Location"]), (201, f"/fn/shortlinks/{name.strip()}"))
        self.assertRegex(name, r"^[2-9a-z]{7}\n$")
        status, _, led = ask(f"shortlinks/{name.strip()}")
        self.assertEqual((status, led["Location"]), (302, "https://www.debian.org/?a=b#c"))
        self.assertEqual(node.cli("kv", "get", f"link/{name.strip()}"), "https://www.debian.org/?a=b#c")

    def test_what_is_none_is_refused(self):
        for body in ("", "ftp://x", "https://a b", "http://x\r\nSet-Cookie: a=b", "https://\u00e9", "https://" + "x" * 3000):
            self.assertEqual(ask("shortlinks", "POST", body.encode())[0], 400, body)
        for path in ("shortlinks/unknown", "shortlinks/", "shortlinks/" + "x" * 1000, "shortlinks/%01"):
            self.assertEqual(ask(path)[0], 404, path)

    def test_a_client_makes_some_in_a_minute(self):
        node.cli("fn", "deploy", "limited", pathlib.Path(folder.name) / "shortlinks", "--env", "LINKS_PER_MINUTE=0")
        status, text, fields = ask("limited", "POST", "https://www.debian.org/")
        self.assertEqual((status, fields["Retry-After"]), (429, "60"), text)


class Polls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        deploy("polls")

    def test_no_vote_is_lost_when_many_come_at_once(self):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, f"polls/tea?voter=v{i}", "POST", "green" if i % 3 else "black") for i in range(24)]
            self.assertEqual({one.result()[0] for one in asked}, {200})
        self.assertEqual(json.loads(ask("polls/tea")[1]), {"votes": 24, "choices": {"green": 16, "black": 8}})

    def test_who_votes_again_changes_the_vote(self):
        for choice in ("apples", "a \"quoted\" pear"):
            self.assertEqual(ask("polls/fruit?voter=Ada%20L", "POST", choice)[0], 200)
        self.assertEqual(json.loads(ask("polls/fruit")[1]), {"votes": 1, "choices": {"a \"quoted\" pear": 1}})

    def test_what_is_no_vote_is_refused(self):
        self.assertEqual(ask("polls/x?voter=", "POST", "a")[0], 400)
        self.assertEqual(ask("polls/x?voter=a", "POST", "a\tb")[0], 400)
        self.assertEqual(ask("polls/x?voter=a%0Ab", "POST", "a")[0], 400)
        self.assertEqual(ask("polls/nobody")[0], 404)
        self.assertEqual(ask("polls")[0], 404)


class Orders(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        node.cli("queue", "create", "orders")
        deploy("orders")

    def test_good_lines_are_sent_and_bad_ones_named(self):
        status, text, _ = ask("orders", "POST", (ROOT / "examples/orders/orders.csv").read_bytes())
        self.assertEqual(status, 422)
        self.assertEqual(json.loads(text), {"sent": 3, "total_cents": 5080, "refused": [
            {"line": 4, "problem": "a quantity is 1 to 10000"}]})
        got = messages("orders")
        self.assertEqual([json.loads(message["body"]) for message in got], [
            {"sku": "apple-1", "quantity": 12, "cents": 350, "total_cents": 4200},
            {"sku": "pear-7", "quantity": 1, "cents": 80, "total_cents": 80},
            {"sku": "quince-2", "quantity": 4, "cents": 200, "total_cents": 800}])
        self.assertEqual([message["attributes"]["sku"] for message in got], ["apple-1", "pear-7", "quince-2"])

    def test_each_problem_has_its_words(self):
        bad = ["a", "a\"b,1,1", "a,0,1", "a,10001,1", "a,1,1.234", "a,1,-1", "a,1,", "a,1,1e3"]
        status, text, _ = ask("orders", "POST", "\n".join(bad))
        self.assertEqual((status, json.loads(text)["sent"], len(json.loads(text)["refused"])), (422, 0, len(bad)))
        self.assertEqual(ask("orders", "POST", "a,1,0.05\r\n\r\n")[:2], (200, '{"sent": 1, "total_cents": 5, "refused": []}\n'))
        messages("orders")
        self.assertEqual(ask("orders")[0], 405)

    def test_without_its_queue_it_fails_and_says_why(self):
        node.cli("fn", "deploy", "lost", pathlib.Path(folder.name) / "orders", "--env", "QUEUE=nowhere")
        self.assertEqual(ask("lost", "POST", "a,1,1")[:2], (500, "the function failed; its log says why\n"))
        self.assertIn("nowhere", node.cli("fn", "logs", "lost"))


class Webhook(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need_registry("JavaScript's engine")
        node.cli("queue", "create", "deliveries")
        token = pathlib.Path(folder.name) / "token"
        token.write_text("secret")
        node.cli("secret", "set", "webhook-token", "--from-file", token)
        deploy("webhook")

    def deliver(self, identity, body='{"event": "paid"}', token="secret", function="webhook"):
        return ask(function, "POST", body, {"X-Webhook-Token": token, "X-Delivery": identity})

    def test_a_delivery_is_taken_once(self):
        messages("deliveries")
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            statuses = sorted(one.result()[0] for one in [pool.submit(self.deliver, "d-1") for _ in range(4)])
        self.assertEqual(statuses, [200, 200, 200, 202])
        got = messages("deliveries")
        self.assertEqual([(m["body"], m["attributes"]["event"], m["attributes"]["delivery"]) for m in got],
                         [('{"event": "paid"}', "paid", "d-1")])
        self.assertGreaterEqual(json.loads(ask("webhook", fields={"X-Webhook-Token": "secret"})[1])["paid"], 1)

    def test_who_has_no_token_is_refused(self):
        for token in ("", "secre", "secrets", "Secret"):
            self.assertEqual(self.deliver("d-2", token=token)[0], 401)
        self.assertEqual(ask("webhook")[0], 401)

    def test_what_is_no_delivery_is_refused(self):
        for identity, body in (("a b", "{}"), ("", "{}"), ("d-3", "{"), ("d-3", "null"), ("d-3", "{}"), ("d-3", '{"event": "a/b"}')):
            self.assertEqual(self.deliver(identity, body)[0], 400, (identity, body))

    def test_what_cannot_be_sent_on_may_come_again(self):
        node.cli("fn", "deploy", "stuck", pathlib.Path(folder.name) / "webhook", "--env", "QUEUE=later")
        self.assertEqual(self.deliver("d-4", function="stuck")[0], 503)
        node.cli("queue", "create", "later")
        self.assertEqual(self.deliver("d-4", function="stuck")[0], 202)


class Clicks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        need_registry("AssemblyScript's compiler")
        node.cli("stream", "create", "clicks")
        deploy("clicks")

    def counts(self):
        return json.loads(ask("clicks")[1])

    def test_clicks_are_counted_once_each(self):
        for page, times in (("/about", 5), ("/a \"b\"", 2)):
            for _ in range(times):
                self.assertEqual(ask(f"clicks?page={page}".replace(" ", "+").replace('"', "%22"), "POST", "")[0], 202)
        wanted = {"/about": 5, "/a \"b\"": 2}
        deadline = time.monotonic() + 60
        while self.counts() != wanted:
            self.assertLess(time.monotonic(), deadline, self.counts())
        again = {"ce-id": "clicks-0-1", "ce-source": "/streams/clicks", "ce-type": "blixard.stream.record", "ce-specversion": "1.0"}
        self.assertEqual(ask("clicks", "POST", "/about", again)[0], 204)
        self.assertEqual(self.counts(), wanted)

    def test_what_is_no_click_is_refused(self):
        self.assertEqual(ask("clicks", "POST", "")[0], 400)
        self.assertEqual(ask("clicks", "PUT", "")[0], 405)


if __name__ == "__main__":
    unittest.main()
