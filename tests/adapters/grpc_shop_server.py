"""The service of grpc_shop.proto over TLS: each receipt has its orders in it, and a text that begins like a field of a message.
Arguments: certificate, key. The first line of output is the port, then each amount that was bought for.
"""
import sys
from concurrent import futures

import grpc

messages, services = grpc.protos_and_services("grpc_shop.proto")


class Shop(services.ShopServicer):
    def Buy(self, request, context):
        print(request.amount, flush=True)
        text = "\n\x0f" + request.customer
        order = messages.Order(customer=request.customer, amount=request.amount)
        return messages.Receipt(text=text, scan=request.scan, orders=[order])

    def BuyAll(self, requests, context):
        context.set_compression(grpc.Compression.Gzip)
        for request in requests:
            yield self.Buy(request, context)


with open(sys.argv[1], "rb") as certificate, open(sys.argv[2], "rb") as key:
    credentials = grpc.ssl_server_credentials([(key.read(), certificate.read())])
server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
services.add_ShopServicer_to_server(Shop(), server)
port = server.add_secure_port("127.0.0.1:0", credentials)
server.start()
print(port, flush=True)
server.wait_for_termination()
