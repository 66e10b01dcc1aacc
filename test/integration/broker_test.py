"""Consuming from real brokers: what is taken, acknowledged, given back, and outlives a server's death."""
import contextlib
import json
import os
import pathlib
import queue
import signal
import socket
import subprocess
import tempfile
import threading
import unittest

from foreign import Server, find, until
from ports import free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build")).resolve()
CONSUME = BUILD / "test" / "broker-consume"
WAIT_SECONDS = 60


class Consumer:
    """broker-consume, whose lines are read as they come."""

    def __init__(self, kind, settings, name="one", **secrets):
        env = {**os.environ, **{f"BROKER_{key.upper()}": value for key, value in secrets.items()}}
        self.process = subprocess.Popen([CONSUME, kind, json.dumps(settings), name], env=env, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.lines = queue.Queue()
        self.connected = None
        self.reasons = []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def next(self, seconds=WAIT_SECONDS):
        """The next line that is no state."""
        while True:
            line = self.lines.get(timeout=seconds)
            if line is None:
                raise EOFError(f"the consumer ended: {self.process.wait()}")
            if "connected" not in line:
                return line
            self.note(line)

    def note(self, line):
        self.connected = line["connected"]
        self.reasons.append(line["reason"])

    def until_connected(self, connected=True):
        while self.connected is not connected:
            line = self.lines.get(timeout=WAIT_SECONDS)
            assert line is not None and "connected" in line, line
            self.note(line)
        return self

    def say(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def take(self, count, answer="ack"):
        """So many messages, answered."""
        taken = []
        for _ in range(count):
            taken.append(self.next())
            if answer:
                self.say(answer, taken[-1]["token"])
        return taken

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()

    def end(self):
        self.process.stdin.close()
        status = self.process.wait(timeout=WAIT_SECONDS)
        assert status == 0, status


def bodies(messages):
    return [message["body"] for message in messages]


class Case(unittest.TestCase):
    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="blixard-broker-")))

    def serve(self, *command, port, env=None):
        server = Server(*command, port=port, env=env).begin()
        self.stack.callback(server.kill)
        return server

    def consume(self, *arguments, **more):
        consumer = Consumer(*arguments, **more)
        self.stack.callback(consumer.process.stdout.close)
        self.stack.callback(consumer.process.wait)
        self.stack.callback(consumer.process.kill)
        return consumer


def entries(*ids):
    """The answer to XREADGROUP: entries of stream s, each with field a."""
    one = b"*2\r\n$3\r\n%s\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n"
    return b"*1\r\n*2\r\n$1\r\ns\r\n*%d\r\n" % len(ids) + b"".join(one % i.encode() for i in ids)


class NoRedis(Case):
    """Who may make a trigger says which server it talks to."""

    def answer(self, how):
        """A server that answers a command, a list of words, with what `how` makes of it; and its settings."""
        server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(server.close)

        def serve():
            connection = server.accept()[0]
            with connection:
                while asked := connection.recv(65536):
                    connection.sendall(how(asked.split(b"\r\n")[2::2]))

        threading.Thread(target=serve, daemon=True).start()
        return {"url": f"redis://127.0.0.1:{server.getsockname()[1]}", "stream": "s"}

    def test_answers_that_make_no_sense_end_nobody(self):
        senseless = b"*1\r\n*2\r\n$1\r\ns\r\n*2\r\n*2\r\n$3\r\n1-1\r\n*4\r\n:1\r\n:2\r\n$1\r\na\r\n$1\r\nb\r\n:7\r\n"
        settings = self.answer(lambda words: senseless if words[0] == b"XREADGROUP" else b"+OK\r\n")
        consumer = self.consume("redis", settings)
        self.assertEqual(json.loads(consumer.take(1)[0]["body"]), {"a": "b"})
        consumer.end()

    def test_more_than_were_asked_for_end_nobody(self):
        settings = self.answer(lambda words: entries("1-1", "1-2", "1-3") if words[0] == b"XREADGROUP" else b"+OK\r\n")
        consumer = self.consume("redis", {**settings, "in_flight": 2})
        self.assertEqual([message["id"] for message in consumer.take(2, answer=None)], ["1-1", "1-2"])
        consumer.end()

    def test_an_answer_on_its_way_makes_no_room(self):
        """While the server is asked for something, the client has not heard yet that it has a place again."""
        asked, goes_on, counts = threading.Event(), threading.Event(), queue.Queue()
        claims = iter((None, asked))

        def answer(words):
            if words[0] == b"XAUTOCLAIM" and next(claims, None):
                asked.set()
                goes_on.wait(WAIT_SECONDS)
            if words[0] == b"XREADGROUP":
                counts.put(int(words[words.index(b"COUNT") + 1]))
                return entries("1-1") if counts.qsize() == 1 else b"*-1\r\n"
            return b"+OK\r\n"

        consumer = self.consume("redis", {**self.answer(answer), "in_flight": 2, "claim_after_ms": 1})
        token = consumer.take(1, answer=None)[0]["token"]
        self.assertTrue(asked.wait(WAIT_SECONDS))
        consumer.say("ack", token)
        consumer.say("status")
        self.assertEqual(consumer.next()["taken"], 1)
        goes_on.set()
        self.assertEqual([counts.get(timeout=WAIT_SECONDS) for _ in range(2)], [2, 1])
        consumer.end()


class Redis(Case):
    def setUp(self):
        super().setUp()
        port = free_port()
        self.server = self.serve(find("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder),
                                 "--appendonly", "yes", "--appendfsync", "always", "--save", "", port=port)
        self.settings = {"url": f"redis://127.0.0.1:{port}", "stream": "orders", "start": "all", "claim_after_ms": 1000}
        self.cli = [find("redis-cli"), "-p", str(port)]

    def ask(self, *words):
        return subprocess.run([*self.cli, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True, timeout=30).stdout.strip()

    def add(self, *fields):
        return self.ask("XADD", "orders", "*", *fields)

    def test_messages_are_taken_and_acknowledged(self):
        first = self.add("data", "hello", "Content-Type", "text/plain", "trace", "t1")
        self.add("a", "1", "b", "two")
        consumer = self.consume("redis", self.settings)
        one, two = consumer.take(2)
        self.assertEqual((one["id"], one["body"], one["type"], one["fields"]), (first, "hello", "text/plain", {"trace": "t1"}))
        self.assertEqual((json.loads(two["body"]), two["type"]), ({"a": "1", "b": "two"}, "application/json"))
        self.add("data", "third")
        consumer.take(1)
        consumer.end()
        self.assertEqual(self.ask("XPENDING", "orders", "blixard").splitlines()[0], "0")

    def test_what_was_not_acknowledged_comes_again(self):
        for n in range(5):
            self.add("data", n)
        consumer = self.consume("redis", self.settings)
        self.assertEqual(bodies(consumer.take(2)), ["0", "1"])
        consumer.take(3, answer=None)
        until(lambda: self.ask("XPENDING", "orders", "blixard").splitlines()[0] == "3")
        consumer.kill()
        again = self.consume("redis", self.settings)  # the same consumer: at once
        self.assertEqual(bodies(again.take(3, answer="release")), ["2", "3", "4"])
        other = self.consume("redis", self.settings, "two")  # another one: when they are old
        again.say("pause")
        self.assertEqual(sorted(bodies(other.take(3))), ["2", "3", "4"])

    def test_a_server_that_dies_and_comes_back(self):
        consumer = self.consume("redis", self.settings).until_connected()
        self.server.kill()
        consumer.until_connected(False)
        self.server.begin()
        consumer.until_connected()
        self.add("data", "after")
        self.assertEqual(bodies(consumer.take(1)), ["after"])

    def test_no_more_are_under_way_than_may_be(self):
        for n in range(10):
            self.add("data", n)
        consumer = self.consume("redis", {**self.settings, "in_flight": 3})
        taken = consumer.take(3, answer=None)
        self.assertEqual(self.ask("XPENDING", "orders", "blixard").splitlines()[0], "3")
        for message in taken:
            consumer.say("ack", message["token"])
        self.assertEqual(bodies(taken) + bodies(consumer.take(7)), [str(n) for n in range(10)])

    def test_a_password_is_shown(self):
        self.ask("CONFIG", "SET", "requirepass", "s3cret")
        wrong = self.consume("redis", self.settings, password="wrong").until_connected(False)
        self.assertIn("WRONGPASS", wrong.reasons[-1])
        self.consume("redis", self.settings, password="s3cret").until_connected()


class Nats(Case):
    def setUp(self):
        super().setUp()
        port = free_port()
        self.server = self.serve(find("nats-server"), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(self.folder), port=port)
        self.port = port
        self.settings = {"url": f"nats://127.0.0.1:{port}", "subject": "orders.*", "start": "all", "ack_wait_ms": 2000}
        self.make_stream()

    def speak(self, *lines):
        """The protocol of NATS is lines; PONG says that all was done."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_SECONDS) as stream:
            stream.sendall(b"".join([b'CONNECT {"verbose":false,"headers":true}\r\n', b"SUB answers 1\r\n", *lines, b"PING\r\n"]))
            heard = b""
            while b"PONG\r\n" not in heard:
                heard += stream.recv(65536)
            while any(b"answers" in line for line in lines) and b"MSG answers" not in heard:
                heard += stream.recv(65536)
            return heard

    def make_stream(self):
        body = json.dumps({"name": "ORDERS", "subjects": ["orders.*"], "storage": "file", "num_replicas": 1, "retention": "limits",
                           "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "discard": "old", "max_age": 0}).encode()
        answer = self.speak(b"PUB $JS.API.STREAM.CREATE.ORDERS answers %d\r\n%s\r\n" % (len(body), body))
        self.assertNotIn(b'"error"', answer)

    def publish(self, subject, body, headers=None):
        body = str(body).encode()
        if headers is None:
            return self.speak(b"PUB %s answers %d\r\n%s\r\n" % (subject.encode(), len(body), body))
        head = ("NATS/1.0\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers.items()) + "\r\n").encode()
        return self.speak(b"HPUB %s answers %d %d\r\n%s%s\r\n" % (subject.encode(), len(head), len(head) + len(body), head, body))

    def test_messages_are_taken_and_acknowledged(self):
        self.publish("orders.new", "hello", {"Content-Type": "text/plain", "Trace": "t1"})
        self.publish("orders.old", "two")
        consumer = self.consume("nats", self.settings)
        one, two = consumer.take(2)
        self.assertEqual((one["body"], one["type"], one["source"], one["id"], one["fields"]),
                         ("hello", "text/plain", "orders.new", "ORDERS-1", {"Trace": "t1"}))
        self.assertEqual((two["body"], two["deliveries"]), ("two", 1))
        consumer.end()
        again = self.consume("nats", self.settings).until_connected()
        self.publish("orders.new", "three")
        self.assertEqual(bodies(again.take(1)), ["three"])

    def test_what_was_not_acknowledged_comes_again(self):
        for n in range(3):
            self.publish("orders.new", n)
        consumer = self.consume("nats", self.settings)
        first = consumer.take(1, answer="release")[0]
        rest = consumer.take(3)
        self.assertIn(first["id"], [message["id"] for message in rest])
        self.assertEqual(max(message["deliveries"] for message in rest), 2)
        self.publish("orders.new", "kept")
        self.assertEqual(bodies(consumer.take(1, answer=None)), ["kept"])
        until(lambda: b'"num_ack_pending":1,' in self.speak(b"PUB $JS.API.CONSUMER.INFO.ORDERS.blixard answers 0\r\n\r\n"))
        consumer.kill()
        self.assertEqual(bodies(self.consume("nats", self.settings).take(1)), ["kept"])

    def test_what_was_not_answered_at_an_end_comes_again_at_once(self):
        settings = {**self.settings, "ack_wait_ms": 3600000}
        self.publish("orders.new", "kept")
        consumer = self.consume("nats", settings)
        self.assertEqual(bodies(consumer.take(1, answer=None)), ["kept"])
        consumer.end()
        self.assertEqual(bodies(self.consume("nats", settings).take(1)), ["kept"])

    def test_what_is_answered_after_the_server_came_back_is_answered(self):
        pending = b"PUB $JS.API.CONSUMER.INFO.ORDERS.blixard answers 0\r\n\r\n"
        settings = {**self.settings, "ack_wait_ms": 3600000}
        for n in range(3):
            self.publish("orders.new", n)
        consumer = self.consume("nats", settings)
        taken = consumer.take(3, answer=None)
        until(lambda: b'"num_ack_pending":3,' in self.speak(pending))
        self.server.kill()
        consumer.until_connected(False)
        self.server.begin()
        consumer.until_connected()
        for message in taken:
            consumer.say("ack", message["token"])
        until(lambda: b'"num_ack_pending":0,' in self.speak(pending))
        self.publish("orders.new", "after")
        self.assertEqual(bodies(consumer.take(1)), ["after"])

    def test_a_server_that_dies_and_comes_back(self):
        consumer = self.consume("nats", self.settings).until_connected()
        self.server.kill()
        consumer.until_connected(False)
        self.server.begin()
        consumer.until_connected()
        self.publish("orders.new", "after")
        self.assertEqual(bodies(consumer.take(1)), ["after"])


class Mqtt(Case):
    def setUp(self):
        super().setUp()
        self.port = free_port()
        conf = self.folder / "mosquitto.conf"
        conf.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
                        f"persistence_location {self.folder}/\nautosave_interval 1\nautosave_on_changes true\nuser root\n")
        self.server = self.serve(find("mosquitto"), "-c", str(conf), port=self.port)
        self.settings = {"url": f"mqtt://127.0.0.1:{self.port}", "topics": ["home/+/temperature"], "qos": 2}

    def publish(self, topic, body, *more, qos=2):
        subprocess.run([find("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(self.port), "-V", "5", "-t", topic, "-m", body, "-q", str(qos), *more],
                       check=True, timeout=30)

    def begin(self, count, settings, name="one"):
        """So many messages at a consumer, none answered."""
        consumer = self.consume("mqtt", settings, name).until_connected()
        for n in range(count):
            self.publish("home/attic/temperature", f"m{n}", qos=1 + n % 2)
        return consumer, consumer.take(count, answer=None)

    def test_messages_are_taken(self):
        self.publish("home/attic/temperature", "kept", "-r")
        consumer = self.consume("mqtt", self.settings).until_connected()
        self.publish("home/attic/temperature", "21", "-D", "publish", "content-type", "text/plain", "-D", "publish", "user-property", "unit", "C")
        self.publish("home/attic/humidity", "50")
        self.publish("home/cellar/temperature", "12")
        one, two = consumer.take(2)
        self.assertEqual((one["body"], one["subject"], one["type"], one["fields"]), ("21", "home/attic/temperature", "text/plain", {"unit": "C"}))
        self.assertEqual(two["body"], "12")

    def test_one_that_is_too_large_is_told_without_its_body(self):
        large = self.folder / "large"
        large.write_bytes(b"x" * (10 << 20))
        consumer = self.consume("mqtt", self.settings).until_connected()
        subprocess.run([find("mosquitto_pub"), "-h", "127.0.0.1", "-p", str(self.port), "-V", "5", "-t", "home/attic/temperature", "-f", large, "-q", "2"],
                       check=True, timeout=30)
        self.publish("home/attic/temperature", "21")
        one, two = consumer.take(2)
        self.assertEqual((one["body"], one["refused_bytes"], two["body"], two["refused_bytes"]), ("", 10 << 20, "21", 0))

    def test_retained_messages_are_taken_when_they_are_wanted(self):
        self.publish("home/attic/temperature", "kept", "-r")
        message = self.consume("mqtt", {**self.settings, "retained": True}).take(1)[0]
        self.assertEqual((message["body"], message["fields"]), ("kept", {"mqtt-retained": "true"}))

    def test_what_was_not_answered_at_a_kill_comes_again(self):
        for qos in (1, 2):  # 2 is taken as 1
            with self.subTest(qos=qos):
                settings = {**self.settings, "qos": qos, "client_id": f"killed{qos}"}
                consumer, taken = self.begin(5, settings)
                consumer.say("ack", taken[3]["token"])
                consumer.kill()
                consumer = self.consume("mqtt", settings)
                self.assertEqual(bodies(consumer.take(5)), [f"m{n}" for n in range(5)])
                consumer.end()

    def test_what_was_answered_before_an_end_does_not_come_again(self):
        consumer, taken = self.begin(5, self.settings)
        for n in (1, 3):
            consumer.say("ack", taken[n]["token"])
        consumer.end()
        self.publish("home/attic/temperature", "last")
        self.assertEqual(bodies(self.consume("mqtt", self.settings).take(4)), ["m0", "m2", "m4", "last"])

    def test_what_was_given_back_comes_again_alone(self):
        consumer, taken = self.begin(4, self.settings)
        for message, answer in zip(taken, ("ack", "release", "ack", "ack")):
            consumer.say(answer, message["token"])
        again = consumer.take(1)
        self.publish("home/attic/temperature", "last")
        self.assertEqual(bodies(again + consumer.take(1)), ["m1", "last"])

    def test_no_more_are_taken_than_may_be_under_way(self):
        consumer, taken = self.begin(2, {**self.settings, "in_flight": 2})
        for n in range(2, 5):
            self.publish("home/attic/temperature", f"m{n}")
        consumer.say("ack", taken[1]["token"])
        consumer.kill()  # neither of the two had been acknowledged, for they are together
        consumer = self.consume("mqtt", {**self.settings, "in_flight": 2})
        self.assertEqual(bodies(consumer.take(5)), [f"m{n}" for n in range(5)])

    def test_one_that_waits_for_room_at_the_end_comes_again(self):
        settings = {**self.settings, "in_flight": 1}
        consumer, taken = self.begin(1, settings)
        self.publish("home/attic/temperature", "second")
        consumer.say("ack", taken[0]["token"])
        self.assertEqual(bodies(consumer.take(1, answer=None)), ["second"])
        self.publish("home/attic/temperature", "third")
        consumer.end()
        self.assertEqual(bodies(self.consume("mqtt", settings).take(2)), ["second", "third"])

    def test_a_session_keeps_what_comes_meanwhile(self):
        self.consume("mqtt", self.settings).until_connected().end()
        self.publish("home/attic/temperature", "meanwhile")
        self.assertEqual(bodies(self.consume("mqtt", self.settings).take(1)), ["meanwhile"])

    def test_filters_that_were_taken_out_of_the_settings_give_nothing(self):
        self.consume("mqtt", self.settings).until_connected().end()
        consumer = self.consume("mqtt", {**self.settings, "topics": ["home/+/humidity"]}).until_connected()
        for topic in ("temperature", "humidity"):
            self.publish(f"home/attic/{topic}", topic)
        self.assertEqual(bodies(consumer.take(1)), ["humidity"])
        consumer.end()
        # It was acknowledged: it does not come to one who asks for it again.
        consumer = self.consume("mqtt", self.settings).until_connected()
        self.publish("home/attic/temperature", "21")
        self.assertEqual(bodies(consumer.take(1)), ["21"])

    def test_subscribers_share(self):
        consumers = [self.consume("mqtt", {**self.settings, "shared": "workers"}, name).until_connected() for name in ("a", "b")]
        for n in range(10):
            self.publish("home/attic/temperature", str(n))
        taken = []
        while len(taken) < 10:  # the broker chooses who gets which
            for consumer in consumers:
                with contextlib.suppress(queue.Empty):
                    while len(taken) < 10:
                        message = consumer.next(0.2)
                        consumer.say("ack", message["token"])
                        taken.append(message["body"])
        self.assertEqual(sorted(taken), sorted(str(n) for n in range(10)))

    def test_a_subscriber_that_shares_has_its_own_again_after_a_kill(self):
        settings = {**self.settings, "shared": "workers"}
        consumer, _ = self.begin(5, settings)
        consumer.kill()
        self.publish("home/attic/temperature", "meanwhile")
        self.assertEqual(bodies(self.consume("mqtt", settings).take(6)), [*(f"m{n}" for n in range(5)), "meanwhile"])

    def test_a_server_that_dies_has_what_was_under_way(self):
        consumer, taken = self.begin(3, self.settings)
        self.server.process.send_signal(signal.SIGUSR1)  # what a server of its time writes down by itself every half hour
        until(lambda: b"m2" in (self.folder / "mosquitto.db").read_bytes())
        self.server.kill()
        consumer.until_connected(False)
        consumer.say("ack", taken[0]["token"])  # nobody hears it
        self.server.begin()
        self.assertEqual(bodies(consumer.take(3)), ["m0", "m1", "m2"])
        for message in taken[1:]:
            consumer.say("ack", message["token"])
        self.publish("home/attic/temperature", "last")
        self.assertEqual(bodies(consumer.take(1)), ["last"])

    def test_a_server_that_dies_and_comes_back(self):
        consumer = self.consume("mqtt", self.settings).until_connected()
        self.server.kill()
        consumer.until_connected(False)
        self.server.begin()
        consumer.until_connected()
        self.publish("home/attic/temperature", "after")
        self.assertEqual(bodies(consumer.take(1)), ["after"])


class Kafka(Case):
    def setUp(self):
        super().setUp()
        mock = BUILD / "test" / "kafka-mock"
        if not mock.exists():
            raise unittest.SkipTest("built without librdkafka")
        self.mock = subprocess.Popen([mock, "orders", "2"], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.stack.callback(self.mock.stdout.close)
        self.stack.callback(self.mock.wait)
        self.stack.callback(self.mock.kill)
        self.stack.callback(self.mock.stdin.close)
        self.settings = {"url": f"kafka://{self.mock.stdout.readline().strip()}", "topics": ["orders"], "start": "all"}

    def produce(self, partition, key, body):
        self.mock.stdin.write(f"{partition} {key} {body}\n")
        self.mock.stdin.flush()
        self.assertEqual(self.mock.stdout.readline().strip(), body)

    def test_messages_are_taken_in_order_and_acknowledged(self):
        for n in range(6):
            self.produce(n % 2, f"k{n % 2}", f"m{n}")
        consumer = self.consume("kafka", self.settings)
        taken = consumer.take(6)
        for partition in range(2):
            self.assertEqual([m["body"] for m in taken if m["subject"] == f"k{partition}"], [f"m{n}" for n in range(6) if n % 2 == partition])
        self.assertEqual((taken[0]["source"], taken[0]["fields"]), ("orders", {"trace": "t1"}))
        consumer.end()
        again = self.consume("kafka", self.settings)
        self.produce(1, "k", "after")
        self.assertEqual(bodies(again.take(1)), ["after"])

    def test_what_was_not_acknowledged_comes_again(self):
        for n in range(4):
            self.produce(0, "k", f"m{n}")
        consumer = self.consume("kafka", self.settings)
        taken = consumer.take(4, answer=None)
        consumer.say("ack", taken[0]["token"])
        consumer.say("ack", taken[2]["token"])  # behind one that is not: it is delivered again as well
        consumer.end()
        self.assertEqual(bodies(self.consume("kafka", self.settings).take(3)), ["m1", "m2", "m3"])

    def test_what_is_given_back_comes_again(self):
        self.produce(0, "k", "m0")
        self.produce(0, "k", "m1")
        consumer = self.consume("kafka", {**self.settings, "in_flight": 1})
        self.assertEqual(bodies(consumer.take(1, answer="release")), ["m0"])
        self.assertEqual(bodies(consumer.take(2)), ["m0", "m1"])

    def test_all_of_what_is_given_back_comes_again(self):
        """In whichever order, while the consumer lives, and when it ends."""
        for n in range(4):
            self.produce(0, "k", f"m{n}")
        consumer = self.consume("kafka", self.settings)
        taken = consumer.take(4, answer=None)
        consumer.say("ack", taken[0]["token"])
        for place in (2, 1, 3):
            consumer.say("release", taken[place]["token"])
        taken = consumer.take(3, answer=None)
        while taken[-1]["body"] != "m3" or "m1" not in bodies(taken[-3:]):  # some may come twice
            taken.append(consumer.next())
        self.assertEqual(bodies(taken[-3:]), ["m1", "m2", "m3"])
        consumer.say("ack", taken[-3]["token"])
        consumer.say("release", taken[-2]["token"])
        consumer.say("release", taken[-1]["token"])
        consumer.end()
        self.assertEqual(bodies(self.consume("kafka", self.settings).take(2)), ["m2", "m3"])

    def test_what_is_remembered_of_a_broker_that_died_is_no_sign_of_life(self):
        self.produce(0, "k", "m0")
        consumer = self.consume("kafka", self.settings)
        consumer.take(1)  # its partitions are known, and will be for as long as a session lasts
        consumer.until_connected()
        self.mock.kill()
        consumer.until_connected(False)
        while not consumer.reasons[-1].startswith("Local: "):  # it was asked, and gave no answer
            consumer.note(consumer.lines.get(timeout=WAIT_SECONDS))
            self.assertFalse(consumer.connected)


class Amqp(Case):
    @classmethod
    def setUpClass(cls):
        cls.stack_of_class = contextlib.ExitStack()
        cls.addClassCleanup(cls.stack_of_class.close)
        program = pathlib.Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        if not program.exists():
            raise unittest.SkipTest("needs rabbitmq-server: tools/bootstrap test")
        home = pathlib.Path(cls.stack_of_class.enter_context(tempfile.TemporaryDirectory(prefix="blixard-amqp-")))
        cls.port, distribution, epmd = free_port(), free_port(), free_port()
        (home / "rabbit.conf").write_text("loopback_users = none\n")
        (home / "plugins").write_text("[].\n")
        env = {"HOME": str(home), "RABBITMQ_NODENAME": f"blixard{cls.port}@localhost", "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
               "RABBITMQ_NODE_PORT": str(cls.port), "RABBITMQ_DIST_PORT": str(distribution), "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
               "RABBITMQ_LOG_BASE": str(home / "log"), "RABBITMQ_CONFIG_FILE": str(home / "rabbit.conf"),
               "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"), "RABBITMQ_PID_FILE": str(home / "pid"),
               "ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": str(epmd), "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
               "RABBITMQ_CONF_ENV_FILE": "/dev/null"}
        server = Server(str(program), port=cls.port, env=env)
        names = Server(find("epmd"), "-address", "127.0.0.1", "-port", str(epmd), port=epmd)  # or Erlang leaves one behind
        cls.stack_of_class.callback(names.kill)
        names.begin()
        cls.stack_of_class.callback(server.kill_group)
        server.begin()
        cls.server = server

    def setUp(self):
        super().setUp()
        self.queue = f"orders{os.urandom(4).hex()}"
        self.settings = {"url": f"amqp://127.0.0.1:{self.port}", "queue": self.queue}
        self.tool("amqp-declare-queue", "-q", self.queue, "-d")

    def tool(self, name, *arguments, stdin=""):
        subprocess.run([find(name), f"--url=amqp://guest:guest@127.0.0.1:{self.port}", *arguments], input=stdin, text=True, check=True,
                       stdout=subprocess.DEVNULL, timeout=30)

    def publish(self, body, *more):
        self.tool("amqp-publish", "-r", self.queue, "-p", "-b", body, *more)

    def test_messages_are_taken_and_acknowledged(self):
        self.publish("hello", "-C", "text/plain", "-H", "trace: t1")
        self.publish("two")
        consumer = self.consume("amqp", self.settings)
        one, two = consumer.take(2)
        self.assertEqual((one["body"], one["type"], one["subject"], one["fields"]), ("hello", "text/plain", self.queue, {"trace": "t1"}))
        self.assertEqual((two["body"], two["deliveries"]), ("two", 1))
        consumer.end()
        again = self.consume("amqp", self.settings).until_connected()
        self.publish("three")
        three = again.take(1)[0]
        self.assertEqual(three["body"], "three")
        self.assertEqual(len({one["id"], two["id"], three["id"]}), 3)

    def test_what_was_not_acknowledged_comes_again(self):
        self.publish("m0")
        self.publish("m1")
        consumer = self.consume("amqp", {**self.settings, "in_flight": 2})
        self.assertEqual(sorted(bodies(consumer.take(2, answer=None))), ["m0", "m1"])
        consumer.kill()
        again = self.consume("amqp", self.settings)
        self.assertEqual(again.take(1, answer="release")[0]["deliveries"], 2)
        self.assertEqual(sorted(bodies(again.take(2))), ["m0", "m1"])

    def test_one_that_is_too_large_is_told_without_its_body(self):
        self.tool("amqp-publish", "-r", self.queue, "-p", stdin="x" * (10 << 20))
        self.publish("m1")
        consumer = self.consume("amqp", self.settings)
        one, two = consumer.take(2)
        self.assertEqual((one["body"], one["refused_bytes"], two["body"]), ("", 10 << 20, "m1"))
        consumer.end()
        again = self.consume("amqp", self.settings).until_connected()
        self.publish("m2")
        self.assertEqual(bodies(again.take(1)), ["m2"])

    def test_a_queue_that_is_not_there_is_named(self):
        consumer = self.consume("amqp", {**self.settings, "queue": "nowhere"}).until_connected(False)
        self.assertIn("no queue 'nowhere'", consumer.reasons[-1])

    def test_a_wrong_password_is_told(self):
        consumer = self.consume("amqp", self.settings, user="guest", password="wrong").until_connected(False)
        self.assertIn("logging in", consumer.reasons[-1])


if __name__ == "__main__":
    unittest.main()
