"""RabbitMQ, over py-amqp."""
