"""A model for the Claude Agent SDK on this machine: it answers at once, and always the same.

The SDK's own program runs as with an account, and talks to this server instead of the API.
"""

import json
import threading
import uuid
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DELEGATE = "Ask somebody else."
TASK = "What is the weather in Zürich?"


class Model(BaseHTTPRequestHandler):
    """Answers with the number of messages, or asks a subagent first if it is told to."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_args):
        """Print nothing."""

    def do_HEAD(self):
        self._send(b"", "text/plain")

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.split("?")[0] != "/v1/messages":
            self._send(b'{"input_tokens": 1}', "application/json")
            return
        messages = request["messages"]
        tool = next(
            (
                tool["name"]
                for tool in request.get("tools", ())
                if tool["name"] in {"Agent", "Task"}
            ),
            None,
        )
        said = json.dumps(messages)
        if DELEGATE in said and tool and "tool_result" not in said:
            arguments = {"description": "Weather", "prompt": TASK, "subagent_type": "weather"}
            block = {"type": "tool_use", "id": "toolu_1", "name": tool, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(arguments)}
            reason = "tool_use"
        else:
            block = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": f"{len(messages)} messages."}
            reason = "end_turn"
        message = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": request["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
        events = [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": None},
                "usage": {"output_tokens": 1},
            },
            {"type": "message_stop"},
        ]
        lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]
        self._send("".join(lines).encode(), "text/event-stream")

    def _send(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def running_model(home):
    """Run the server; yields the environment variables by which the SDK's program finds it.

    Args:
        home: An empty directory, in which the program keeps what it keeps.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield {
                "ANTHROPIC_API_KEY": "none",
                "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{server.server_port}",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "CLAUDE_CONFIG_DIR": str(home),
                "DISABLE_AUTOUPDATER": "1",
                "HOME": str(home),
                "IS_SANDBOX": "1",
            }
        finally:
            server.shutdown()
            thread.join()
