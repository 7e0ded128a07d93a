"""Calls tests/adapters/grpc_shop_server.py by the name `localhost` and prints what it sees. Argument: the port."""
import sys

import grpc

messages, services = grpc.protos_and_services("grpc_shop.proto")
channel = grpc.secure_channel(f"localhost:{sys.argv[1]}", grpc.ssl_channel_credentials())
shop = services.ShopStub(channel)


def show(name, call):
    try:
        print(name, call())
    except grpc.RpcError as error:
        print(name, error.code().name, error.details())


def receipt(one):
    return repr(one.text), repr(one.scan), [(order.customer, order.amount) for order in one.orders]


def buy(name, compression=None, **fields):
    order = messages.Order(**fields)
    show(name, lambda: receipt(shop.Buy(order, timeout=20, compression=compression)))


def buy_all(name, *orders):
    orders = [messages.Order(**order) for order in orders]
    show(name, lambda: [receipt(one) for one in shop.BuyAll(iter(orders), timeout=20)])


def raw(name, path, message):
    show(name, lambda: channel.unary_unary(path)(message, timeout=20))


buy("small", customer="ada@example.com", amount=7, password="hunter2", scan=b"of bob@example.org")
buy("packed", grpc.Compression.Gzip, customer="x" * 500, amount=8)
buy("large", customer="ada@example.com", amount=500)
buy_all("several", {"customer": "ada@example.com", "amount": 1}, {"customer": "bob@example.org", "amount": 2})
buy_all("one of them", {"customer": "ada@example.com", "amount": 1}, {"customer": "mallory", "amount": 2})
raw("unknown field", "/shop.Shop/Buy", b"\x10\x09\x48\x01")
raw("unknown method", "/shop.Shop/Sell", b"\x10\x09")
