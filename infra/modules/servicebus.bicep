// The namespace with every queue, topic and subscription that AOS uses.
param location string
param tags object
param token string
param sku string
param eventsSessions bool
param replyQueues array

var queues = [
  'agent-commands'
  'mcp-server-commands'
  'aos-requests'
  'aos-poison'
]

// The requests and answers of a conversation's tools need no sessions: the kernel puts them in order.
var topics = [
  { name: 'agent-events', subscription: 'realm-agents', sessions: eventsSessions }
  { name: 'mcp-requests', subscription: 'mcp-servers', sessions: false }
  { name: 'mcp-responses', subscription: 'realm-agents', sessions: false }
]

resource namespace 'Microsoft.ServiceBus/namespaces@2024-01-01' = {
  name: 'sb-aos-${token}'
  location: location
  tags: tags
  sku: sku == 'Premium' ? { name: 'Premium', tier: 'Premium', capacity: 1 } : { name: sku, tier: sku }
  properties: {
    disableLocalAuth: true
    minimumTlsVersion: '1.2'
    publicNetworkAccess: 'Enabled'
  }
}

// No duplicate detection: a message that is put off is sent again under its own id and must not vanish.
resource queue 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = [for name in concat(queues, replyQueues): {
  parent: namespace
  name: name
  properties: {
    lockDuration: 'PT1M'
    maxDeliveryCount: 10
    requiresSession: false
    requiresDuplicateDetection: false
    defaultMessageTimeToLive: 'P14D'
    deadLetteringOnMessageExpiration: true
  }
}]

resource topic 'Microsoft.ServiceBus/namespaces/topics@2024-01-01' = [for item in topics: {
  parent: namespace
  name: item.name
  properties: {
    requiresDuplicateDetection: false
    defaultMessageTimeToLive: 'P14D'
  }
}]

resource subscription 'Microsoft.ServiceBus/namespaces/topics/subscriptions@2024-01-01' = [for (item, i) in topics: {
  parent: topic[i]
  name: item.subscription
  properties: {
    lockDuration: 'PT1M'
    maxDeliveryCount: 10
    requiresSession: item.sessions
    defaultMessageTimeToLive: 'P14D'
    deadLetteringOnMessageExpiration: true
  }
}]

output id string = namespace.id
output name string = namespace.name
output host string = '${namespace.name}.servicebus.windows.net'
