"""Accesses an S3 store with boto3: boto3_s3.py ENDPOINT ACCESS_KEY SECRET_KEY COMMAND ARGUMENT..."""

import json
import sys
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config


def policy(**statement):
    statement = {"Effect": "Allow", **statement}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def make_role(endpoint, access, secret):
    """Makes a user with a role in moto, and prints the keys and the role."""
    iam = boto3.client(
        "iam",
        endpoint_url=endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name="us-east-1",
    )
    iam.create_user(UserName="user")
    actions = ["sts:AssumeRole", "s3:PutObject", "s3:AbortMultipartUpload"]
    may = policy(Action=actions, Resource="*")
    iam.put_user_policy(UserName="user", PolicyName="p", PolicyDocument=may)
    key = iam.create_access_key(UserName="user")["AccessKey"]
    trust = policy(Principal={"AWS": "*"}, Action=["sts:AssumeRole"])
    role = iam.create_role(RoleName="role", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    may_store = policy(Action="s3:*", Resource="*")
    iam.put_role_policy(RoleName="role", PolicyName="p", PolicyDocument=may_store)
    print(key["AccessKeyId"], key["SecretAccessKey"], role)


def main(endpoint, access, secret, command, *arguments):
    config = Config(
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=config,
    )
    if command == "create-bucket":
        s3.create_bucket(Bucket=arguments[0])
    elif command == "publish-bucket":
        objects = "arn:aws:s3:::%s/*" % arguments[0]
        readable = policy(Principal="*", Action="s3:GetObject", Resource=objects)
        s3.put_bucket_policy(Bucket=arguments[0], Policy=readable)
    elif command == "keep-versions":
        status = {"Status": "Enabled"}
        s3.put_bucket_versioning(Bucket=arguments[0], VersioningConfiguration=status)
    elif command == "put":
        bucket, key, file = arguments
        with open(file, "rb") as body:
            print(s3.put_object(Bucket=bucket, Key=key, Body=body).get("VersionId"))
    elif command == "upload":
        # In parts of 5 MiB.
        bucket, key, file = arguments
        parts = TransferConfig(multipart_threshold=1, multipart_chunksize=5 << 20)
        s3.upload_file(file, bucket, key, Config=parts)
    elif command == "get":
        bucket, key, file = arguments
        s3.download_file(bucket, key, file)
    elif command == "delete":
        s3.delete_object(Bucket=arguments[0], Key=arguments[1])
    elif command == "list":
        for entry in s3.list_objects_v2(Bucket=arguments[0]).get("Contents", []):
            print(entry["Key"], entry["Size"], entry["ETag"].strip('"'))
    elif command == "uploads":
        for upload in s3.list_multipart_uploads(Bucket=arguments[0]).get("Uploads", []):
            print(upload["Key"], upload["UploadId"])
    elif command == "abort":
        bucket, key, upload = arguments
        s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
    elif command == "make-role":
        make_role(endpoint, access, secret)
    elif command == "require-signatures":
        # From moto, after some requests.
        request = urllib.request.Request(endpoint + "/moto-api/reset-auth", arguments[0].encode())
        request.add_header("Content-Type", "text/plain")
        urllib.request.urlopen(request).read()
    else:
        raise SystemExit("unknown command " + command)


main(*sys.argv[1:])
