"""An unchanged S3 client with keys that nobody knows. Argument: the endpoint."""
import sys
import urllib.request

import boto3
from botocore.config import Config

s3 = boto3.client(
    "s3",
    endpoint_url=sys.argv[1],
    region_name="eu-central-1",
    aws_access_key_id="AKIADUMMY",
    aws_secret_access_key="dummy",
    config=Config(s3={"addressing_style": "path"}, signature_version="s3v4", retries={"total_max_attempts": 1}),
)
name = "notes/a b+c=d~é.txt"
s3.put_object(Bucket="b", Key=name, Body=b"mail ada@example.com\n", ContentType="text/plain", Metadata={"who": "x  y"})
print(s3.get_object(Bucket="b", Key=name)["Body"].read().decode().strip())
print([one["Key"] for one in s3.list_objects_v2(Bucket="b", Prefix="notes/a b", MaxKeys=7)["Contents"]])
url = s3.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": name}, ExpiresIn=60)
print(urllib.request.urlopen(url).read().decode().strip())
