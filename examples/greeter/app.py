"""A handler as AWS Lambda has them: greets who is named in the query, or in the event."""
import json
import os

GREETING = os.environ.get("GREETING", "Hello")


def handler(event, context):
    query = event.get("queryStringParameters") or event
    name = query.get("name", "world")
    print(f"greeting {name} for {context.aws_request_id}")
    if "requestContext" not in event:
        return {"greeting": f"{GREETING}, {name}!"}
    return {
        "statusCode": 200,
        "headers": {"Content-Type": "application/json"},
        "body": json.dumps({"greeting": f"{GREETING}, {name}!", "path": event["rawPath"]}),
    }
